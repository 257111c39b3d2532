package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"cowl/internal/block/blocktest"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// Two groups, each with a daemon of its own, share an instant: what was written
// to the second after it was written to the first is never in a snapshot without
// that.
func TestOneInstantOfTwoDaemons(t *testing.T) {
	var clients []*Client
	for range 2 {
		m := newMachine(t)
		m.volumes(t, "a", "b")
		c, _ := m.serve(t)
		zero(t, c, "a", "b")
		clients = append(clients, c)
	}
	part := func(i int, origin string) manager.Part {
		return manager.Part{Group: clients[i], Name: "vg", Specs: []volume.SnapshotSpec{
			{Origin: origin, Name: "s" + origin, Size: volume.Size{Percent: 100, Of: volume.OfOrigin}},
		}}
	}
	l := startLoadOn(openVolume(t, clients[0], "a"), openVolume(t, clients[1], "b"), blocktest.Seed(t))
	rounds := 6
	if blocktest.Long() {
		rounds = 200
	}
	for i := range rounds {
		parts := []manager.Part{part(0, "a"), part(1, "b")}
		if i%2 == 1 { // in either order of names
			slices.Reverse(parts)
		}
		r, err := manager.Together(bg, parts)
		if err != nil || len(r) != 2 || r[0].Names[0] != parts[0].Specs[0].Name || r[1].Names[0] != parts[1].Specs[0].Name {
			t.Fatalf("round %d: %+v, %v", i, r, err)
		}
		if err := checkInstant(readAll(t, clients[0], "sa"), readAll(t, clients[1], "sb")); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
		for j, name := range []string{"sa", "sb"} {
			if _, err := clients[j].RemoveLVs(bg, []string{name}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// If one group cannot, the other has no snapshot either, whichever is asked first.
	for _, bad := range []int{0, 1} {
		parts := []manager.Part{part(0, "a"), part(1, "b")}
		parts[bad].Specs[0].Origin = "nosuch"
		if _, err := manager.Together(bg, parts); !errs.Is(err, errs.NotFound) {
			t.Errorf("an origin that is not there: %v", err)
		}
		for i, name := range []string{"sa", "sb"} {
			if st, err := clients[i].Status(bg); err != nil || st.Group.LV(name) != nil {
				t.Errorf("group %d has a snapshot of an instant that was not: %v", i, err)
			}
		}
	}
	l.stop(t)
	if l.writes < rounds {
		t.Error("nothing was written")
	}
}

// Whatever becomes of a client, writers go on.
func TestHolds(t *testing.T) {
	specs := []volume.SnapshotSpec{{Origin: "a", Name: "s"}}
	began := func(f *fake, end string) bool { return slices.Contains(f.asked(), end) }
	taken := func(f *fake) bool {
		return slices.ContainsFunc(f.asked(), func(s string) bool { return strings.HasPrefix(s, "snapshot") })
	}
	t.Run("held", func(t *testing.T) {
		f := newFake(t)
		c := serve(t, f, runDir(t)).client
		_, err := c.CreateSnapshotsWhile(bg, specs, time.Minute, func(context.Context) error {
			if !began(f, "hold 1m0s") || began(f, "held") || taken(f) {
				t.Errorf("the group was asked %q", f.asked())
			}
			return nil
		})
		if err != nil || !taken(f) {
			t.Errorf("%v; the group was asked %q", err, f.asked())
		}
	})
	t.Run("what is done meanwhile fails", func(t *testing.T) {
		f := newFake(t)
		c := serve(t, f, runDir(t)).client
		why := errors.New("why")
		if _, err := c.CreateSnapshotsWhile(bg, specs, time.Minute, func(context.Context) error { return why }); err != why || taken(f) || !began(f, "held") {
			t.Errorf("%v; the group was asked %q", err, f.asked())
		}
	})
	t.Run("it takes too long", func(t *testing.T) {
		f := newFake(t)
		c := serve(t, f, runDir(t)).client
		_, err := c.CreateSnapshotsWhile(bg, specs, time.Millisecond, func(ctx context.Context) error {
			<-ctx.Done() // the daemon has given up
			return ctx.Err()
		})
		if !errs.Is(err, errs.Conflict) || taken(f) {
			t.Errorf("%v; the group was asked %q", err, f.asked())
		}
	})
	t.Run("the client dies", func(t *testing.T) {
		f := newFake(t)
		c := serve(t, f, runDir(t)).client
		ctx, die := context.WithCancel(bg)
		hold := &holdRequest{ID: "x", Limit: time.Minute}
		answered := make(chan error, 1)
		go func() {
			_, err := c.change(ctx, "create-snapshots", createSnapshotsRequest{Specs: specs, Hold: hold})
			answered <- err
		}()
		if _, err := c.call(bg, "wait-held", holdRequest{ID: "x"}); err != nil {
			t.Fatal(err)
		}
		die()
		if err := <-answered; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		until(t, "the hold is over", func() bool { return began(f, "held") })
		if taken(f) {
			t.Errorf("the group was asked %q", f.asked())
		}
		until(t, "nothing is known of it any more", func() bool {
			_, err := c.call(bg, "let-go", holdRequest{ID: "x"})
			return errs.Is(err, errs.NotFound)
		})
	})
	t.Run("another request wants to be alone", func(t *testing.T) {
		f := newFake(t)
		c := serve(t, f, runDir(t)).client
		removed := make(chan error, 1)
		_, err := c.CreateSnapshotsWhile(bg, specs, time.Minute, func(context.Context) error {
			go func() {
				_, err := c.RemoveLVs(bg, []string{"b"})
				removed <- err
			}()
			time.Sleep(20 * time.Millisecond) // it most likely waits now; if not, nothing is proved
			return nil
		})
		if err := errors.Join(err, <-removed); err != nil {
			t.Error(err)
		}
	})
	t.Run("for ever", func(t *testing.T) {
		f := newFake(t)
		c := serve(t, f, runDir(t)).client
		for _, limit := range []time.Duration{0, -1, maxHold + 1} {
			if _, err := c.CreateSnapshotsWhile(bg, specs, limit, func(context.Context) error { return nil }); !errs.Is(err, errs.Usage) {
				t.Errorf("a limit of %v: %v", limit, err)
			}
		}
	})
}
