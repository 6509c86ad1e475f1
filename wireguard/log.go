package wireguard

import (
	"runtime/debug"
	"time"
)

// complaintTime is the time between two lines about messages that could not be
// sent: strangers may cause any number of them.
const complaintTime = 10 * time.Second

// complain reports that something could not be sent to p. It heals by itself,
// so one line now and then is enough.
func (d *Device) complain(p *Peer, err error) {
	now := d.now()
	if at := d.complained.load(); at != 0 && now.since(at) < complaintTime {
		return
	}
	d.complained.store(now)
	d.log.Warn("a message could not be sent to a peer", "peer", p.key, "err", err)
}

func stack() string { return string(debug.Stack()) }
