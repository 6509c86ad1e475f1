package telemetry

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"gatecontrol/model"
	"gatecontrol/store"
)

func TestStoreCondition(t *testing.T) {
	u := newTunnel(t, 1)
	tr, source := u.traffic(), StoreConditions(u.db)
	sample(t, tr)
	if list := source(); len(list) != 0 {
		t.Errorf("conditions: %+v", list)
	}
	loseFile(t, store.IntentFile)
	u.status[0].RxBytes = 100
	if err := tr.Sample(t.Context()); err == nil {
		t.Fatal("it was stored")
	}
	list := source()
	if len(list) != 1 || list[0].Code != "store_failed" || list[0].Severity != model.SeverityError {
		t.Errorf("conditions: %+v", list)
	}
	if list := tr.Conditions(); len(list) != 0 {
		t.Errorf("told twice: %+v", list)
	}
}

// loseFile puts one that cannot be written in the place of an open file.
func loseFile(t *testing.T, name string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, fd := range fds {
		path, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil || filepath.Base(path) != name {
			continue
		}
		n, err := strconv.Atoi(fd.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup3(int(null.Fd()), n, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("%s is not open", name)
}
