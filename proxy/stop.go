package proxy

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// Shutdown stops accepting, ends upgrades, lets requests in flight finish, and
// closes what idles. If ctx ends first, it closes everything and returns the
// error of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop((*conn).closeIdle, (*h3Conn).drain)
	done := make(chan struct{})
	go func() { // ends with the last connection, which both ways below bring about
		s.running.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		s.stop((*conn).Kill, (*h3Conn).Kill)
		s.closeBackends()
		<-done
	}
	s.closeBackends()
	s.workers.stop()
	return err
}

// Close ends everything at once and waits for it.
func (s *Server) Close() error {
	s.stop((*conn).Kill, (*h3Conn).Kill)
	s.closeBackends()
	s.running.Wait()
	s.closeBackends()
	s.workers.stop()
	return nil
}

// stop closes listeners and upgrades, and does to every connection what end or
// end3 does.
func (s *Server) stop(end func(*conn), end3 func(*h3Conn)) {
	s.mu.Lock()
	s.draining.Store(true)
	s.endOnce.Do(func() { close(s.ending) })
	s.listDoors()
	for ln := range s.listeners {
		_ = ln.Close()
	}
	all := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	doors := slices.Collect(maps.Keys(s.doors))
	all3 := slices.Collect(maps.Keys(s.h3conns))
	s.mu.Unlock()
	for _, d := range doors {
		_ = d.ln.Close() // ends handshakes, too
	}
	s.upgrades.closeAll()
	for _, c := range all {
		end(c)
	}
	var ending sync.WaitGroup
	for _, c := range all3 {
		ending.Go(func() { end3(c) }) // closing one waits for its goroutine
	}
	ending.Wait()
}

// closeBackends ends the pools and every connection to a backend, in use or not,
// so that no exchange waits for anything any more.
func (s *Server) closeBackends() {
	for _, p := range s.snapshot.Load().pools {
		p.close()
	}
	s.mu.Lock()
	s.ended = true
	all := make([]*backendConn, 0, len(s.backends))
	for bc := range s.backends {
		all = append(all, bc)
	}
	s.mu.Unlock()
	closeConns(all)
}

// opened counts a new connection to a backend; closed, one that was closed.
func (s *Server) opened(bc *backendConn) {
	s.census.backend(1)
	s.mu.Lock()
	s.backends[bc] = struct{}{}
	ended := s.ended
	s.mu.Unlock()
	if ended {
		_ = bc.Close()
	}
}

func (s *Server) closed(bc *backendConn) {
	s.census.backend(-1)
	s.mu.Lock()
	delete(s.backends, bc)
	s.mu.Unlock()
}
