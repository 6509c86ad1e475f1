package proxy

import (
	_ "embed"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"go4.org/netipx"

	"gatecontrol/model"
)

// botLists are the networks that this program knows without asking.
//
//go:embed botlists.txt
var botLists string

// customNetworks is the name of networks that are listed one by one.
const customNetworks = "custom"

// BotOptions are what Bots are made of.
type BotOptions struct {
	Log *slog.Logger
	// Ranges lists names of lists and networks, with commas between them; empty
	// stands for every list.
	Ranges string

	sources map[string]botSource // of tests; nil: those of the providers
	client  *http.Client         // likewise
}

// Bots knows networks that bots come from. Its methods may be called from any
// goroutine.
type Bots struct {
	o       BotOptions
	custom  *netipx.IPSet // nil: none
	names   []string      // of the lists, in the order in which they are looked at
	mu      sync.Mutex    // of changes to lists
	current atomic.Pointer[[]botList]
}

// botList is the networks of one name.
type botList struct {
	name string
	set  *netipx.IPSet
}

// NewBots reads the choice of lists. An error names what is neither a list nor a
// network.
func NewBots(o BotOptions) (*Bots, error) {
	embedded, err := embeddedLists()
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b := &Bots{o: o}
	var lists []botList
	add := func(name string) {
		for _, l := range lists {
			if l.name == name {
				return
			}
		}
		for _, l := range embedded {
			if l.name == name {
				lists = append(lists, l)
				b.names = append(b.names, name)
			}
		}
	}
	var custom netipx.IPSetBuilder
	for part := range strings.SplitSeq(o.Ranges, ",") {
		part = strings.ToLower(strings.TrimSpace(part))
		before := len(lists)
		if add(part); part == "" || len(lists) > before || contains(lists, part) {
			continue
		}
		p, ok := parseNetwork(part)
		if a, err := netip.ParseAddr(part); err == nil && a.Zone() == "" {
			p, ok = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), true
		}
		if !ok {
			return nil, model.Invalid("bot_blocker_ranges", "%q is neither a network nor one of %s", part, strings.Join(listNames(embedded), ", "))
		}
		custom.AddPrefix(p)
	}
	if b.custom, err = custom.IPSet(); err != nil {
		return nil, err
	}
	if len(lists) == 0 && len(b.custom.Ranges()) == 0 {
		lists = embedded
		b.names = listNames(embedded)
	}
	b.current.Store(&lists)
	return b, nil
}

func contains(lists []botList, name string) bool {
	for _, l := range lists {
		if l.name == name {
			return true
		}
	}
	return false
}

func listNames(lists []botList) (names []string) {
	for _, l := range lists {
		names = append(names, l.name)
	}
	return names
}

// embeddedLists parses botLists, once.
var embeddedLists = sync.OnceValues(func() (lists []botList, err error) {
	var b netipx.IPSetBuilder
	name := ""
	end := func() error {
		if name == "" {
			return nil
		}
		set, err := b.IPSet()
		lists, b = append(lists, botList{name, set}), netipx.IPSetBuilder{}
		return err
	}
	for line := range strings.Lines(botLists) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			if err := end(); err != nil {
				return nil, err
			}
			name = strings.Trim(line, "[]")
		default:
			for text := range strings.FieldsSeq(line) {
				p, ok := parseNetwork(text)
				if !ok {
					return nil, fmt.Errorf("list of bots: %q is not a network", text)
				}
				b.AddPrefix(p)
			}
		}
	}
	return lists, end()
})

// Network returns the name of the list that addr is in, empty if it is in none.
func (b *Bots) Network(addr netip.Addr) string {
	if b.custom.Contains(addr) {
		return customNetworks
	}
	for _, l := range *b.current.Load() {
		if l.set.Contains(addr) {
			return l.name
		}
	}
	return ""
}

// Names are the lists in use.
func (b *Bots) Names() []string { return b.names }

// replace puts a newer list in the place of one in use.
func (b *Bots) replace(l botList) {
	b.mu.Lock()
	defer b.mu.Unlock()
	lists := append([]botList(nil), *b.current.Load()...)
	for i := range lists {
		if lists[i].name == l.name {
			lists[i] = l
		}
	}
	b.current.Store(&lists)
}
