package repo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"

	"cowl/internal/errs"
)

func lock(t *testing.T, r *Repo, mode LockMode) *Lock {
	t.Helper()
	_, l, err := r.Lock(ctx, mode, "test of "+string(mode), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Release(ctx) })
	return l
}

// Which locks stand beside each other, and that who is refused is told by whom
// and what to do.
func TestLocks(t *testing.T) {
	r, s := inMemory(t)
	for _, c := range []struct {
		held, wanted LockMode
		ok           bool
	}{
		{Shared, Shared, true}, {Shared, Maintain, true}, {Shared, Exclusive, false},
		{Maintain, Shared, true}, {Maintain, Maintain, false}, {Exclusive, Maintain, false}, {Exclusive, Exclusive, false},
	} {
		l := lock(t, r, c.held)
		_, got, err := r.Lock(ctx, c.wanted, "wanted", "")
		if (err == nil) != c.ok {
			t.Errorf("%s beside %s: %v", c.wanted, c.held, err)
		}
		if err == nil {
			got.Release(ctx)
		} else if !errs.Is(err, errs.Busy) || !strings.Contains(err.Error(), fmt.Sprintf("test of %s by process %d", c.held, os.Getpid())) ||
			!strings.Contains(errs.HintOf(err), "cowl repo unlock") {
			t.Errorf("%s beside %s: %v (hint %q)", c.wanted, c.held, err, errs.HintOf(err))
		}
		if err := l.Release(ctx); err != nil {
			t.Error(err)
		}
	}
	for id := range s.blobs {
		if strings.HasPrefix(string(id), lockPrefix) {
			t.Errorf("left behind: %s", id)
		}
	}
}

// put writes a lock as another process would.
func put(t *testing.T, s *memStore, l LockInfo, age time.Duration) {
	t.Helper()
	l.Format, l.Version = lockFormat, lockVersion
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	s.blobs[blob.ID(lockPrefix+l.ID)] = stamped{text, time.Now().Add(-age)}
}

// The locks of processes that are gone are in nobody's way.
func TestStaleLocks(t *testing.T) {
	r, s := inMemory(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	put(t, s, LockInfo{ID: "dead", Mode: Exclusive, Host: host, PID: dead.Process.Pid}, 0)
	put(t, s, LockInfo{ID: "old", Mode: Exclusive, Host: "elsewhere", PID: 1}, time.Hour)
	put(t, s, LockInfo{ID: "fresh", Mode: Shared, Purpose: "backup", Host: "elsewhere", PID: 1}, time.Minute)
	l := lock(t, r, Shared)
	all, err := r.Locks(ctx)
	if err != nil || len(all) != 2 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := l.Release(ctx); err != nil {
		t.Error(err)
	}
	put(t, s, LockInfo{ID: "old", Mode: Exclusive, Host: "elsewhere", PID: 1}, time.Hour)
	if removed, err := r.Unlock(ctx, false); err != nil || len(removed) != 1 || removed[0].ID != "old" {
		t.Errorf("%+v, %v", removed, err)
	}
	if removed, err := r.Unlock(ctx, true); err != nil || len(removed) != 1 || removed[0].ID != "fresh" {
		t.Errorf("%+v, %v", removed, err)
	}
}

// Whoever loses a lock stops.
func TestLostLock(t *testing.T) {
	r, _ := inMemory(t)
	_, l, err := r.Lock(ctx, Shared, "test", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Check(ctx); err != nil {
		t.Error(err)
	}
	if _, err := r.Unlock(ctx, true); err != nil {
		t.Fatal(err)
	}
	if err := l.Check(ctx); !errs.Is(err, errs.Conflict) {
		t.Error(err)
	}
	if err := l.Release(ctx); err != nil {
		t.Error(err)
	}
}

// What nobody refers to any more is freed: at once if nobody else is there,
// and not at all, for now, beside a running backup.
func TestMaintain(t *testing.T) {
	r, s := inMemory(t)
	dev := volume(t, 4*mib)
	keep := stored(t, r, Source{Dev: dev})
	write(t, dev, nil, Layout{}, 0, noise(77, mib))
	drop := stored(t, r, Source{Dev: dev})
	write(t, dev, nil, Layout{}, 0, noise(78, mib))
	running := stored(t, r, Source{Dev: dev})
	if err := r.Delete(ctx, []*Backup{drop}); err != nil {
		t.Fatal(err)
	}
	if all, err := r.List(ctx); err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	// Kopia counts in seconds: what is deleted in the second in which it came
	// is kept for another.
	s.ahead += time.Minute
	l := lock(t, r, Shared)
	m, err := r.Maintain(ctx)
	if err != nil || len(m.Users) != 1 || m.Before-m.After > mib/2 {
		t.Errorf("beside a backup: %+v, %v", m, err)
	}
	l.Release(ctx)
	s.ahead += time.Minute
	m, err = r.Maintain(ctx)
	if err != nil || len(m.Users) != 0 || m.Before-m.After < mib {
		t.Errorf("alone: %+v, %v", m, err)
	}
	again := openStore(t, s)
	if v, err := again.Verify(ctx, VerifyOptions{}); err != nil || v.Unsummed > 0 {
		t.Errorf("%+v, %v", v, err)
	}
	compare(t, again, running, dev)
	if _, err := again.VerifyBackup(ctx, keep, VerifyOptions{}); err != nil {
		t.Error(err)
	}
}

// A backup that is being made while maintenance runs beside it is whole
// afterwards, also where it builds on a backup that is forgotten meanwhile.
func TestMaintainBesideBackup(t *testing.T) {
	r, s := inMemory(t)
	dev := volume(t, 4*mib)
	first := stored(t, r, Source{Dev: dev})
	base, _, err := r.Image(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	locked, l, err := r.Lock(ctx, Shared, "backup", first.ID)
	if err != nil {
		t.Fatal(err)
	}
	changed := NewSet(base.Layout().Segments())
	write(t, dev, changed, base.Layout(), mib, noise(80, mib))
	other := openStore(t, s)
	done := false
	b, err := r.Store(locked, Source{Dev: dev, Base: base, Changed: changed}, record(), nil, StoreOptions{Progress: func(int64, int64) {
		if done {
			return
		}
		done = true
		all, err := other.List(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		if err := other.Delete(context.Background(), all); err != nil {
			t.Error(err)
		}
		if m, err := other.Maintain(context.Background()); err != nil || len(m.Users) != 1 {
			t.Errorf("%+v, %v", m, err)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	l.Release(ctx)
	again := openStore(t, s)
	if v, err := again.Verify(ctx, VerifyOptions{}); err != nil {
		t.Errorf("%+v, %v", v, err)
	}
	compare(t, again, b, dev)
}
