package proxy

import (
	"sync"
	"sync/atomic"
)

// maxIdleWorkers is how many goroutines are kept for the next streams. A busy core
// has a few at a time; each keeps a stack of some 16 KiB.
const maxIdleWorkers = 64

// workers are the goroutines that run streams, of all connections. They are kept
// because the stack of a new one has to grow, several times, until a request fits:
// that costs more than the rest of a start.
type workers struct {
	jobs chan job // unbuffered: taken by an idle worker or by none
	quit chan struct{}
	idle atomic.Int32
	once sync.Once
	all  sync.WaitGroup
}

// job is what a worker runs. It counts itself where it is waited for.
type job interface{ run() }

func (w *workers) init() { w.jobs, w.quit = make(chan job), make(chan struct{}) }

// start runs j in a goroutine, which stop waits for.
func (w *workers) start(j job) {
	select {
	case w.jobs <- j:
	default:
		w.all.Go(func() { w.work(j) })
	}
}

func (w *workers) work(j job) {
	for {
		j.run()
		if w.idle.Add(1) > maxIdleWorkers {
			w.idle.Add(-1)
			return
		}
		select {
		case j = <-w.jobs:
			w.idle.Add(-1)
		case <-w.quit:
			return
		}
	}
}

// stop ends the idle workers, once no job comes any more.
func (w *workers) stop() {
	w.once.Do(func() { close(w.quit) })
	w.all.Wait()
}
