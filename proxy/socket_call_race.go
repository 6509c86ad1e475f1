//go:build race

package proxy

import "syscall"

// The race detector knows that what was sent before comes before what was received
// after, if the calls are those of package syscall.

func readNow(fd uintptr, p []byte) (int, syscall.Errno) { return called(syscall.Read(int(fd), p)) }

func writeNow(fd uintptr, p []byte) (int, syscall.Errno) { return called(syscall.Write(int(fd), p)) }

func called(n int, err error) (int, syscall.Errno) {
	errno, _ := err.(syscall.Errno)
	return n, errno
}
