package store

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gatecontrol/model"
)

func TestCommitError(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want model.Kind
	}{
		{"no room for a page", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, model.KindUnavailable},
		{"over a quota", &fs.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}, model.KindUnavailable},
		{"no room to grow", fmt.Errorf("file resize error: %s", syscall.ENOSPC), model.KindUnavailable}, // as bbolt words it
		{"no quota to grow", fmt.Errorf("file sync error: %s", syscall.EDQUOT), model.KindUnavailable},
		{"a broken disk", syscall.EIO, model.KindInternal},
	} {
		if got := writeError(c.err); model.KindOf(got) != c.want {
			t.Errorf("%s: %v, want kind %s", c.name, got, c.want)
		}
	}
}

// TestSyncFailsAtTheEnd is about a sync that fails over a full disk after the
// header of the file was written: whether the change is on disk is unknown then.
func TestSyncFailsAtTheEnd(t *testing.T) {
	db := open(t, t.TempDir())
	btx, err := db.intent.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	id := btx.ID()
	if err := btx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := db.committing(db.intent, id+1, syscall.ENOSPC); model.KindOf(err) != model.KindUnavailable {
		t.Errorf("before the header: %v", err)
	}
	if err := db.Healthy(); err != nil {
		t.Errorf("before the header: %v", err)
	}
	if err := db.committing(db.intent, id, syscall.ENOSPC); err == nil || db.Healthy() == nil {
		t.Errorf("behind the header: %v, healthy: %v", err, db.Healthy())
	}
}

// A history file that failed to sync must not be built upon either.
func TestHistoryRefusesAfterFailedSync(t *testing.T) {
	db := open(t, t.TempDir())
	if err := db.committing(db.history, 0, syscall.EIO); err == nil {
		t.Fatal("no error")
	}
	err := db.UpdateHistory(func(tx *Tx) error { return Activity.Put(tx, &model.Event{ID: 1}) })
	if model.KindOf(err) != model.KindUnavailable {
		t.Errorf("history is written after a failed sync: %v", err)
	}
}

// fullDisk names the directory in which the helper process of TestFullDisk works.
const fullDisk = "GC_TEST_FULL_DISK"

// TestFullDisk fills a file system of its own, which a helper process mounts where
// nobody else sees it.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv(fullDisk); dir != "" {
		onFullDisk(t, dir)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("only root may mount a file system")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), fullDisk+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		t.Skipf("no namespace of its own: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("%s", out)
	}
}

func onFullDisk(t *testing.T, dir string) {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("no file system of its own: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	db := open(t, dir)
	db.SetPrepare(func(context.Context, *Tx) (Pending, error) { return nil, nil })
	value := make([]byte, 3000)
	for i := range value {
		value[i] = 'a' + byte(rand.N(26))
	}
	n := 0
	put := func() error {
		return db.Update(t.Context(), func(tx *Tx) error {
			return Settings.Put(tx, &Setting{Key: fmt.Sprintf("key%06d", n), Value: string(value)})
		})
	}
	for ; n < 10; n++ {
		if err := put(); err != nil {
			t.Fatal(err)
		}
	}
	junk := filepath.Join(dir, "junk")
	fill := func() {
		f, err := os.Create(junk)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for block := make([]byte, 4096); err == nil; {
			_, err = f.Write(block)
		}
	}
	for round := range 3 {
		fill()
		refused := 0
		for range 1000 { // the last free pages of the file take some
			err := put()
			if err == nil {
				n++
				continue
			}
			if refused++; model.KindOf(err) != model.KindUnavailable {
				t.Fatalf("round %d: %v", round, err)
			}
			if refused == 5 {
				break
			}
		}
		if refused < 5 || db.Healthy() != nil {
			t.Fatalf("round %d: %d writes refused, %v", round, refused, db.Healthy())
		}
		read(t, db, func(tx *Tx) error {
			if got := Settings.Len(tx); got != n || tx.Revision() != model.Revision(n) {
				t.Fatalf("round %d: %d records of %d at revision %d", round, got, n, tx.Revision())
			}
			return nil
		})
		if err := os.Remove(junk); err != nil {
			t.Fatal(err)
		}
		if err := put(); err != nil {
			t.Fatalf("round %d, with room again: %v", round, err)
		}
		n++
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	read(t, open(t, dir), func(tx *Tx) error {
		if got := Settings.Len(tx); got != n {
			t.Errorf("%d records of %d after a restart", got, n)
		}
		return nil
	})
}
