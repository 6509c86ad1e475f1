package relay

// Counts are the datagrams of one direction since New, by what became of them.
// One may be counted under several kinds. Whatever came in has left, waits, or
// is counted as gone:
//
//	Received + Duplicated = Sent + Waiting + Lost + Overflowed + Blackholed + Failed
type Counts struct {
	Received   uint64
	Sent       uint64
	Lost       uint64
	Reordered  uint64 // copies included
	Duplicated uint64
	Corrupted  uint64 // a corrupted one that is duplicated counts once
	Overflowed uint64 // found the queue full
	Blackholed uint64
	Failed     uint64 // could not be sent, or came from a client too many
	Waiting    uint64 // on the way right now
}
