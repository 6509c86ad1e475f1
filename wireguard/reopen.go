package wireguard

import (
	"net"
	"slices"
	"time"

	"gatecontrol/model"
)

// Sockets that failed are opened again after firstReopen, and after twice as
// long each time that this fails or does not last, up to lastReopen.
const (
	firstReopen = 100 * time.Millisecond
	lastReopen  = 30 * time.Second
)

// failure is why a device that was opened has no sockets.
type failure struct {
	err   error
	since instant
}

// Trouble tells whether the UDP port is closed although Open has opened it. It
// is opened again as soon as the system allows it; sessions stay meanwhile.
func (d *Device) Trouble() (t model.Trouble) {
	if f := d.failed.Load(); f != nil {
		t = model.Trouble{Code: model.TroublePort, Since: d.date(f.since), Detail: reason(f.err)}
	}
	return t
}

// openLocked opens the sockets and reads them. mu is held.
func (d *Device) openLocked(port uint16) error {
	if d.closed {
		return net.ErrClosed
	}
	s, err := openSockets(d.log, port)
	if err != nil {
		return err
	}
	s.split(d.index.tag)
	d.opened = d.now()
	d.sockets.Store(s)
	d.failed.Store(nil)
	for _, socket := range s.each() {
		d.running.Go(func() { d.receive(socket) })
	}
	for _, p := range d.peers {
		p.watch()
	}
	return nil
}

// reopen replaces the sockets after one of them has failed. It is called by the
// goroutine that has read that one, and returns when others read the new ones or
// the device is closed.
func (d *Device) reopen(broken *socket, err error) {
	old, since := d.lose(broken, err)
	if old == nil {
		return
	}
	port := old.port()
	d.log.Error("the UDP socket of the tunnel failed; it will be opened again", "port", port, "err", err)
	_ = old.close() // which ends whoever reads the other one
	for {
		select {
		case <-d.clock.done:
			return
		case <-time.After(d.pause):
		}
		d.pause = min(2*d.pause, lastReopen)
		d.mu.Lock()
		err := d.openLocked(port)
		if err != nil {
			d.failed.Store(&failure{err, since})
		}
		d.mu.Unlock()
		if err == nil {
			d.log.Info("the UDP port of the tunnel is open again", "port", port)
			return
		}
	}
}

// lose takes the sockets out of use that broken is one of. It returns nil if
// they are out of use already.
func (d *Device) lose(broken *socket, err error) (lost *sockets, since instant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sockets.Load()
	if d.closed || s == nil || !slices.Contains(s.each(), broken) {
		return nil, 0
	}
	since = d.now()
	if since.since(d.opened) > lastReopen {
		d.pause = firstReopen
	}
	d.failed.Store(&failure{err, since})
	d.sockets.Store(nil)
	return s, since
}
