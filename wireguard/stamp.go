package wireguard

import (
	"encoding/binary"
	"time"

	"golang.zx2c4.com/wireguard/tai64n"
)

const (
	// stampEpoch is the label of 1970 in TAI64, as WireGuard counts: ten seconds
	// ahead of Unix time, for good.
	stampEpoch = 1<<62 + 10

	// stampMargin is by how much a time stamp may be later than the latest that was
	// kept from before a restart: what came after it was lost.
	stampMargin = time.Hour

	// stampGrain is how fine a time stamp is, in nanoseconds. Finer ones would tell
	// peers how busy this host is.
	stampGrain = 1 << 24
)

// stampOf returns the time stamp of an initiation that is sent at t.
func stampOf(t time.Time) (s tai64n.Timestamp) {
	binary.BigEndian.PutUint64(s[:], stampEpoch+uint64(t.Unix()))
	binary.BigEndian.PutUint32(s[8:], uint32(t.Nanosecond()/stampGrain*stampGrain))
	return s
}

// stampTime returns when s was, by the clock of whoever made it.
func stampTime(s tai64n.Timestamp) time.Time {
	return time.Unix(int64(binary.BigEndian.Uint64(s[:])-stampEpoch), int64(binary.BigEndian.Uint32(s[8:]))).UTC()
}

// later returns now, or, if the clock was set back since, a time a second after
// the last one: peers take no time twice, and would refuse this side until the
// clock is where it was. Initiations are further apart than a second.
func later(now, last tai64n.Timestamp) tai64n.Timestamp {
	if now.After(last) {
		return now
	}
	seconds := binary.BigEndian.Uint64(last[:])
	binary.BigEndian.PutUint64(last[:], seconds+1)
	return last
}

// StampAfter tells of the latest time stamp that a peer may have seen from this
// side before a restart. If the clock shows an earlier time now, as on a host
// without a battery, handshakes carry later ones all the same: peers would refuse
// them.
func (d *Device) StampAfter(seen time.Time) {
	if !seen.Before(d.wall()) {
		d.stampAfter(stampOf(seen.Add(stampMargin)))
	}
}

// stampAfter has all stamps from here on be later than this one.
func (d *Device) stampAfter(stamp tai64n.Timestamp) {
	for {
		floor := d.floor.Load()
		if floor != nil && !stamp.After(*floor) || d.floor.CompareAndSwap(floor, &stamp) {
			return
		}
	}
}

// nextStamp returns the one for an initiation of p. mu of p is held.
func (p *Peer) nextStamp() tai64n.Timestamp {
	last := p.stamped
	if floor := p.device.floor.Load(); floor != nil && floor.After(last) {
		last = *floor
	}
	return later(stampOf(p.device.wall()), last)
}
