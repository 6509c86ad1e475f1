package l4

import (
	"fmt"

	"gatecontrol/model"
)

// Pending is a Config whose new ports are open but not served. It must be
// committed or aborted, once; the other method does nothing afterwards.
type Pending struct {
	server *Server // nil once committed or aborted
	owners map[portKey]owner
	opened []*port // held by the Pending alone until Commit
}

// Prepare checks c and opens the ports that are not open yet, without serving
// them. What is being served does not change. The errors are KindInvalid and
// KindConflict with the field at fault, and KindUnavailable where the system
// refuses for another reason; nothing stays open then.
func (s *Server) Prepare(c Config) (*Pending, error) {
	owners, err := c.owners()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, model.Failure(model.KindUnavailable, "port forwarding has stopped")
	}
	if s.pending {
		return nil, model.Failure(model.KindUnavailable, "another change of ports is being applied")
	}
	p := &Pending{server: s, owners: owners}
	for key, own := range owners {
		if _, open := s.ports[key]; open {
			continue
		}
		port, err := s.open(key, own)
		if err != nil {
			p.closeOpened()
			return nil, err
		}
		p.opened = append(p.opened, port)
	}
	s.pending = true
	return p, nil
}

// Commit serves the new ports, hands ports to their new owners, and closes the
// ports that nobody asks for any more. The flows of a route that lost its port
// or its target end at once; other flows are not touched.
func (p *Pending) Commit() {
	s := p.server
	if s == nil {
		return
	}
	p.server = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = false
	if s.closed {
		p.closeOpened()
		return
	}
	for _, port := range p.opened {
		s.ports[port.key] = port
		port.serve()
	}
	var closed int
	for key, port := range s.ports {
		if own, ok := p.owners[key]; ok {
			port.handTo(own)
			continue
		}
		port.close()
		delete(s.ports, key)
		closed++
	}
	if len(p.opened)+closed > 0 {
		s.log.Info("ports changed", "opened", len(p.opened), "closed", closed, "open", len(s.ports))
	}
}

// Abort closes what was opened. What is being served does not change.
func (p *Pending) Abort() {
	s := p.server
	if s == nil {
		return
	}
	p.server = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = false
	p.closeOpened()
}

func (p *Pending) closeOpened() {
	for _, port := range p.opened {
		port.close()
	}
}

// open opens one port on every bind, or on none.
func (s *Server) open(key portKey, own owner) (*port, error) {
	p := newPort(s, key, own)
	for _, b := range s.binds {
		if err := p.openOn(b); err != nil {
			p.close()
			return nil, listenError(key, fmt.Errorf("listen on %s: %w", b.Name, err))
		}
	}
	return p, nil
}
