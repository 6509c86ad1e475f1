package proxy

import (
	"html"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"gatecontrol/model"
)

const (
	// maxTarpits bounds the requests that are answered slowly: each holds a
	// connection and a goroutine. The others are refused at once.
	maxTarpits  = 256
	tarpitTime  = 30 * time.Second
	tarpitPiece = 24 // bytes a second
	// garbageLines of garbage are about 6 KB.
	garbageLines = 100
)

// botGate refuses requests from networks that are known for bots. What they say of
// themselves decides nothing: bots lie.
type botGate struct {
	bots     *Bots
	count    *atomic.Uint64
	verdicts map[string]*verdict // by the name of the list
}

func newBotGate(d *draft) (gate, error) {
	b := d.in.Options.Bots
	if b == nil {
		return nil, nil
	}
	refuse := deniedBot
	switch b.Mode {
	case model.BotBlock:
	case model.BotTarpit:
		refuse.status, refuse.answer = fasthttp.StatusOK, answerTarpit
	case model.BotDrop:
		refuse.status, refuse.answer = model.StatusDropped, answerDrop
	case model.BotGarbage:
		refuse.status, refuse.answer = fasthttp.StatusOK, answerGarbage
	case model.BotRedirect:
		loc, err := locationOf("bot_blocker_config", b.URL)
		if err != nil {
			return nil, err
		}
		refuse.status, refuse.fields, refuse.body = fasthttp.StatusPermanentRedirect, loc, nil
	case model.BotCustom:
		if b.Status != 0 && (b.Status < 100 || b.Status > 599) {
			return nil, model.Invalid("bot_blocker_config", "the status must be 100 to 599")
		}
		if b.Status >= 200 { // what is below is not the end of an answer
			refuse.status = b.Status
		}
		refuse.body = []byte(html.EscapeString(b.Message))
	default:
		return nil, model.Invalid("bot_blocker_mode", "%q is not a mode", b.Mode)
	}
	d.route.blocked = d.srv.blocked.of(d.in.ID)
	g := &botGate{bots: d.srv.bots, count: d.route.blocked, verdicts: make(map[string]*verdict)}
	for _, name := range append([]string{customNetworks}, g.bots.Names()...) {
		v := refuse
		v.reason = "the address is in a network of bots: " + name
		g.verdicts[name] = &v
	}
	return g, nil
}

var deniedBot = verdict{status: fasthttp.StatusForbidden, fields: plainText, body: []byte("Access denied.\n"), answer: answerBare}

const plainText = "Content-Type: text/plain; charset=utf-8\r\n"

func (g *botGate) check(v *visit) *verdict {
	name := g.bots.Network(v.addr)
	if name == "" {
		v.note = "the address is in no network of bots"
		return nil
	}
	if !v.dry {
		g.count.Add(1)
	}
	return g.verdicts[name]
}

// answerDrop ends the connection, or the stream, without an answer.
func answerDrop(v *visit, _ *verdict) {
	v.goOn()
	v.record.Status = model.StatusDropped
	s, cl := v.srv, v.client
	s.running.Add(1)
	cl.TakeOver(v.ctx, func() {
		defer s.running.Done()
		defer v.end()
		cl.Reset()
		_ = cl.Close()
	})
}

func answerGarbage(v *visit, _ *verdict) {
	b := make([]byte, 0, garbageLines*64)
	for range garbageLines {
		b = append(appendWords(b, 40+rand.IntN(30)), '\n')
	}
	v.srv.reply(v.ctx, fasthttp.StatusOK, ownFields+plainText, b)
}

// appendWords appends n bytes that look like words and mean nothing.
func appendWords(b []byte, n int) []byte {
	const letters = "eeeetttaaooiinnsshhrrddlluccmmffyywwggppbbvvk"
	word := 0
	for range n {
		if word > 1 && rand.IntN(5) == 0 {
			b, word = append(b, ' '), 0
			continue
		}
		b = append(b, letters[rand.IntN(len(letters))])
		word++
	}
	return b
}

// answerTarpit answers a few bytes a second, so that the bot has to wait. Who finds
// all places taken, or knows no answer without a length, is refused.
func answerTarpit(v *visit, _ *verdict) {
	s := v.srv
	if v.client.Version() == version10 || v.ctx.Request.Header.IsHead() {
		answerBare(v, &deniedBot)
		return
	}
	if s.tarpits.Add(1) > maxTarpits {
		s.tarpits.Add(-1)
		s.hits.at(limitTarpits)
		answerBare(v, &deniedBot)
		return
	}
	s.reply(v.ctx, fasthttp.StatusOK, ownFields+plainText, nil)
	v.goOn()
	v.ctx.Response.SetBodyStream(&tarpit{visit: v, s: s, left: int(s.limits.tarpit / time.Second)}, -1)
	v.ctx.Response.ImmediateHeaderFlush = true
}

// tarpit is such an answer.
type tarpit struct {
	visit *visit
	s     *Server
	left  int // seconds
}

func (t *tarpit) Read(p []byte) (int, error) {
	if t.left--; t.left < 0 {
		return 0, io.EOF
	}
	wait := time.NewTimer(time.Second)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-t.s.ending:
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, appendWords(make([]byte, 0, tarpitPiece), tarpitPiece))
	t.visit.record.Size += int64(n)
	return n, nil
}

// Close is called once, when the answer has ended in whatever way.
func (t *tarpit) Close() error {
	t.s.tarpits.Add(-1)
	if t.left >= 0 {
		t.visit.record.Cut = model.CutByClient
	}
	t.visit.end()
	return nil
}
