package app

import (
	"syscall"

	"gatecontrol/model"
)

// newRoom has room for 80 % of what may be open at once: the rest is left to the
// store, to listeners, the resolver and the plain admin port, so that a flood at any
// other door never locks the operator out.
func newRoom() *model.Room {
	const fallback, most = 8192, 1 << 20
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil || r.Cur == 0 {
		return model.NewRoom(fallback)
	}
	return model.NewRoom(int(min(r.Cur/5*4, most)))
}
