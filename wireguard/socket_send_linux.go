package wireguard

import (
	"encoding/binary"
	"errors"
	"net"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// send is sockets.sendMarked for one family.
func (s *socket) send(buf []byte, segment int, to *endpoint, mark uint8) error {
	call := s.sends.Get().(*sendCall)
	defer s.release(call)
	call.setDestination(to)
	call.mark = mark
	whole := min(maxSegments, max(1, maxSendBytes/segment)) * segment
	for len(buf) > segment && s.gso.Load() {
		part := buf[:min(whole, len(buf))]
		if err := call.run(s, part, segment, to); err != nil {
			if !s.segmentsRefused(err) {
				return err
			}
			break
		}
		buf = buf[len(part):]
	}
	for len(buf) > 0 {
		part := buf[:min(segment, len(buf))]
		if err := call.run(s, part, 0, to); err != nil {
			return err
		}
		buf = buf[len(part):]
	}
	return nil
}

// segmentsRefused says whether the datagrams have to be sent one by one.
//
// EIO means that the device below cannot compute checksums, which segments
// need; that holds for good. EINVAL and EMSGSIZE mean that one segment is longer
// than the path to this peer takes: alone it can go in fragments.
func (s *socket) segmentsRefused(err error) bool {
	switch {
	case errors.Is(err, unix.EIO), errors.Is(err, unix.EOPNOTSUPP):
		if s.gso.Swap(false) {
			s.log.Info("the network device takes no UDP segments, so datagrams are sent one by one",
				"socket", s.conn.LocalAddr().String(), "err", err)
		}
		return true
	default:
		return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EMSGSIZE)
	}
}

func (s *socket) release(call *sendCall) {
	call.setData(nil)
	s.sends.Put(call)
}

// sendCall holds what one sendmsg call needs, so that none of it is allocated
// again. The net package's own methods would let one sender at a time into the
// kernel, where 64 KiB take several microseconds; this lets every sender in. The
// call never blocks, so the scheduler is not told of it: telling it costs as much
// as a short call, and makes it look for another thread during a long one.
type sendCall struct {
	try     func(fd uintptr)      // call.once
	wait    func(fd uintptr) bool // call.done
	v6      bool
	mark    uint8 // for congestion
	sa4     unix.RawSockaddrInet4
	sa6     unix.RawSockaddrInet6
	data    unix.Iovec
	msg     unix.Msghdr
	err     error
	control []byte            // of space
	space   [controlSize]byte // aligned by the pointers before it, as messages must be
}

func newSendCall(v6 bool) *sendCall {
	call := &sendCall{v6: v6}
	call.try, call.wait = call.once, call.done
	call.sa4.Family, call.sa6.Family = unix.AF_INET, unix.AF_INET6
	call.msg.Iov = &call.data
	call.msg.SetIovlen(1)
	if v6 {
		call.msg.Name, call.msg.Namelen = (*byte)(unsafe.Pointer(&call.sa6)), unix.SizeofSockaddrInet6
	} else {
		call.msg.Name, call.msg.Namelen = (*byte)(unsafe.Pointer(&call.sa4)), unix.SizeofSockaddrInet4
	}
	return call
}

func (call *sendCall) setData(buf []byte) {
	call.data.Base = unsafe.SliceData(buf)
	call.data.SetLen(len(buf))
}

func (call *sendCall) once(fd uintptr) {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&call.msg)), unix.MSG_DONTWAIT)
		switch errno {
		case 0:
			call.err = nil
		case unix.EINTR:
			continue
		default:
			call.err = errno
		}
		return
	}
}

func (call *sendCall) done(fd uintptr) bool {
	call.once(fd)
	return call.err != unix.EAGAIN
}

// run sends buf, cut into segments unless segment is 0. Where the system says
// that to.local is none of its addresses (any more), it is sent from another.
func (call *sendCall) run(s *socket, buf []byte, segment int, to *endpoint) error {
	call.setData(buf)
	call.setControl(segment, to, true)
	err := call.write(s)
	if err != nil && to.local.IsValid() && sourceRefused(err) {
		call.setControl(segment, to, false)
		err = call.write(s)
	}
	return err
}

// sourceRefused: the system may not be able to send from this address.
func sourceRefused(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// write makes the call, and waits for room in the socket's buffer if it must.
func (call *sendCall) write(s *socket) error {
	if err := s.raw.Control(call.try); err != nil {
		return err
	}
	if call.err == unix.EAGAIN {
		if err := s.raw.Write(call.wait); err != nil {
			return err
		}
	}
	return call.err
}

func (call *sendCall) setDestination(to *endpoint) {
	addr, port := to.addr.Addr(), bigEndian(to.addr.Port())
	if call.v6 {
		call.sa6.Port, call.sa6.Addr, call.sa6.Scope_id = port, addr.As16(), to.iface
		if to.iface == 0 && addr.Zone() != "" {
			call.sa6.Scope_id = zoneIndex(addr.Zone())
		}
		return
	}
	call.sa4.Port, call.sa4.Addr = port, addr.As4()
}

// bigEndian turns a number into the order of the network, or back.
func bigEndian(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// zoneIndex finds the interface that a zone names; 0: there is none. It is slow,
// and needed only until a peer with such an address answers.
func zoneIndex(zone string) uint32 {
	if iface, err := net.InterfaceByName(zone); err == nil {
		return uint32(iface.Index)
	}
	index, _ := strconv.ParseUint(zone, 10, 32)
	return uint32(index)
}

// setControl writes the control messages: the source, the mark, and how to cut.
//
// The interface goes with a link-local source only. Any other source can leave
// by whatever interface leads to the peer now.
func (call *sendCall) setControl(segment int, to *endpoint, source bool) {
	call.control = call.space[:0]
	if source && to.local.Is4() != call.v6 && to.local.IsValid() {
		if call.v6 {
			info := (*unix.Inet6Pktinfo)(call.message(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo))
			*info = unix.Inet6Pktinfo{Addr: to.local.As16(), Ifindex: to.iface}
		} else {
			info := (*unix.Inet4Pktinfo)(call.message(unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo))
			*info = unix.Inet4Pktinfo{Spec_dst: to.local.As4()}
		}
	}
	if call.mark != notECT {
		level, kind := int32(unix.IPPROTO_IP), int32(unix.IP_TOS)
		if call.v6 {
			level, kind = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		}
		*(*int32)(call.message(level, kind, 4)) = int32(call.mark)
	}
	if segment > 0 {
		*(*uint16)(call.message(unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)) = uint16(segment)
	}
	call.msg.Control = unsafe.SliceData(call.control)
	call.msg.SetControllen(len(call.control))
}

// message adds a control message and returns the place of its data.
func (call *sendCall) message(level, kind int32, size int) unsafe.Pointer {
	start := len(call.control)
	call.control = call.space[:start+unix.CmsgSpace(size)]
	header := (*unix.Cmsghdr)(unsafe.Pointer(&call.space[start]))
	header.Level, header.Type = level, kind
	header.SetLen(unix.CmsgLen(size))
	return unsafe.Pointer(&call.space[start+unix.CmsgLen(0)])
}
