package proxy

import (
	"net/netip"
	"strconv"
)

// altSvcAge is how long a client may remember that there is HTTP/3, in seconds: a
// day, after which one that was switched off is forgotten.
const altSvcAge = "86400"

// appendAltSvc tells a client on TLS that the same host is served over HTTP/3
// (RFC 7838, section 3), at the port that it knows the host by. It does where a
// UDP socket stands beside the TCP one that the client came in on.
func (s *Server) appendAltSvc(b []byte, cl client, host []byte) []byte {
	doors := s.altDoors.Load()
	if doors == nil || !cl.Secure() || cl.Version() == version3 {
		return b
	}
	local := addrPort(cl.LocalAddr())
	for _, door := range *doors {
		if door.Port() == local.Port() && (door.Addr().IsUnspecified() || door.Addr() == local.Addr()) {
			b = strconv.AppendUint(append(b, "Alt-Svc: h3=\":"...), uint64(publicPort(host, true)), 10)
			return append(b, "\"; ma="+altSvcAge+"\r\n"...)
		}
	}
	return b
}

// listDoors publishes the addresses of the doors. mu is held.
func (s *Server) listDoors() {
	var list []netip.AddrPort
	for d := range s.doors {
		list = append(list, addrPort(d.pc.LocalAddr()))
	}
	if len(list) == 0 || s.draining.Load() {
		s.altDoors.Store(nil)
		return
	}
	s.altDoors.Store(&list)
}
