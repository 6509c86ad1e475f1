package model

import "testing"

func TestRoom(t *testing.T) {
	r := NewRoom(3)
	if !r.Take(2) || r.Take(2) || !r.Take(1) || r.Take(1) {
		t.Errorf("%d taken", r.Taken())
	}
	r.Add(2)
	r.Give(3)
	if r.Taken() != 2 || !r.Take(1) || r.Take(1) {
		t.Errorf("%d taken", r.Taken())
	}
	var none *Room
	none.Add(1)
	if !none.Take(1<<30) || none.Taken() != 0 {
		t.Error("no bound, and no room")
	}
}
