package manager

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// TestMain is also the other process of these tests: it opens a group, says
// so, and holds it until its standard input ends.
func TestMain(m *testing.M) {
	if spec := os.Getenv("COWL_TEST_HOLD"); spec != "" {
		os.Exit(hold(strings.Split(spec, ",")))
	}
	os.Exit(m.Run())
}

func hold(devices []string) int {
	g, err := NewHost(HostOptions{Devices: devices, StateDir: os.TempDir()}).OpenGroup(ctx, "vg")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("holding")
	io.Copy(io.Discard, os.Stdin)
	if err := g.Close(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// holder starts another process that has the group open, and returns what ends it.
func holder(t *testing.T, devices ...string) (release func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "COWL_TEST_HOLD="+strings.Join(devices, ","))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := false
	release = func() {
		if !done {
			done = true
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("the other process: %v", err)
			}
		}
	}
	t.Cleanup(release)
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "holding\n" {
		t.Fatalf("the other process says %q", line)
	}
	return release
}

// Two writers at once must be impossible.
func TestAnotherProcessHoldsTheGroup(t *testing.T) {
	r := newRig(t)
	a, b := r.image("a.img", 64*mib), r.image("b.img", 64*mib)
	r.group("vg", a, b)
	release := holder(t, a, b)

	_, err := r.host().OpenGroup(ctx, "vg")
	wantErr(t, err, errs.Busy, a)
	_, err = r.host().CreatePVs(ctx, []string{b}, PVCreate{Force: 2, Confirm: func(string) (bool, error) { return true, nil }})
	wantErr(t, err, errs.Busy, b)
	wantSummary(t, r.scan(), "vg a.img b.img") // looking is free
	r.quiet(r.scan())

	// Who waits is let in as soon as the other is done.
	r.o.Wait = time.Minute
	opened := make(chan error)
	go func() {
		g, err := r.host().OpenGroup(ctx, "vg")
		if err == nil {
			err = g.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("opened what another process holds: %v", err)
	case <-time.After(3 * pollInterval):
	}
	release()
	if err := <-opened; err != nil {
		t.Fatal(err)
	}

	// Who waits can be told to stop.
	release = holder(t, a, b)
	c, cancel := context.WithTimeout(ctx, 2*pollInterval)
	defer cancel()
	if _, err := r.host().OpenGroup(c, "vg"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a wait that was cancelled ended with %v", err)
	}
	release()
}

// The group may change between the look without locks and the one with them.
func TestGroupChangesWhileItIsWaitedFor(t *testing.T) {
	r := newRig(t)
	a, b := r.image("a.img", 64*mib), r.image("b.img", 64*mib)
	r.group("vg", a)
	h := r.host()
	seen, err := h.members(ctx, "vg")
	if err != nil {
		t.Fatal(err)
	}
	g := r.open("vg")
	if _, err := g.AddPVs(ctx, []string{b}); err != nil {
		t.Fatal(err)
	}
	r.close(g)
	openLocked := func() error {
		set := newDeviceSet(lockOptions)
		defer set.close()
		_, err := h.openLocked(set, "vg", seen)
		return err
	}
	wantErr(t, openLocked(), errs.Busy, "is being changed by another command")

	seen, _ = h.members(ctx, "vg")
	g = r.open("vg")
	if _, err := g.RemoveGroup(ctx); err != nil {
		t.Fatal(err)
	}
	r.close(g)
	wantErr(t, openLocked(), errs.Busy, "is being changed by another command")
}

// Readers take no locks, so they read in the midst of commits. None of that
// may show: no warning, no group that is half there.
func TestScanBesideACommitter(t *testing.T) {
	r := newRig(t)
	a, b, c := r.image("a.img", 64*mib), r.image("b.img", 64*mib), r.image("c.img", 64*mib)
	r.group("vg", a, b, c)
	g := r.open("vg")
	var commits atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := g.CreateLV(ctx, volume.LVSpec{Name: "x", Size: volume.Size{Extents: 2}, Tags: []string{strings.Repeat("t", n%1000+1)}}); err != nil {
				t.Error(err)
				return
			}
			if _, err := g.RemoveLVs(ctx, []string{"x"}); err != nil {
				t.Error(err)
				return
			}
			commits.Add(2)
		}
	}()
	with, without := 0, 0
	enough := func() bool { return with >= 20 && without >= 20 && commits.Load() >= 40 }
	for deadline := time.Now().Add(30 * time.Second); !enough() && time.Now().Before(deadline); {
		inv := r.scan()
		r.quiet(inv)
		if len(inv.Groups) != 1 || len(inv.Groups[0].PVs) != 3 {
			t.Fatalf("groups: %v", summary(inv))
		}
		if len(inv.Groups[0].Meta.LVs) == 1 {
			with++
		} else {
			without++
		}
	}
	close(stop)
	<-stopped
	r.close(g)
	t.Logf("%d scans with and %d without the volume beside %d commits", with, without, commits.Load())
	if !enough() {
		t.Error("the scans did not see both states, or hardly any commit: nothing was tested")
	}
}

// A metadata area that was torn is survived by its twin on another PV, and
// repaired by the next change.
func TestTornMetadataArea(t *testing.T) {
	r := newRig(t)
	a, b := r.image("a.img", 64*mib), r.image("b.img", 64*mib)
	r.group("vg", a, b)
	f, err := os.OpenFile(a, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("torn"), 4096+512+100); err != nil { // within the text
		t.Fatal(err)
	}
	inv := r.scan()
	wantSummary(t, inv, "vg a.img b.img")
	if !strings.Contains(strings.Join(inv.Warnings, "\n"), "bad checksum") {
		t.Errorf("warnings: %v", inv.Warnings)
	}
	if inv.Groups[0].PVs[0].MDAs[0].Damaged == "" {
		t.Error("the area does not say that it is damaged")
	}
	g := r.open("vg")
	r.lv(g, "x", 1)
	r.close(g)
	inv = r.scan()
	r.quiet(inv)
	wantSummary(t, inv, "vg a.img b.img x:1")
}

// If none is left, the group is gone, and its PVs do not pass for free ones.
func TestAllMetadataLost(t *testing.T) {
	r := newRig(t)
	a := r.image("a.img", 64*mib)
	r.group("vg", a)
	f, err := os.OpenFile(a, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 8192), 4096); err != nil {
		t.Fatal(err)
	}
	inv := r.scan()
	wantSummary(t, inv, "- a.img")
	if len(inv.Warnings) == 0 || !inv.Orphans[0].InUse {
		t.Errorf("%v, in use: %v", inv.Warnings, inv.Orphans[0].InUse)
	}
	_, err = r.host().CreatePVs(ctx, []string{a}, PVCreate{})
	wantErr(t, err, errs.Conflict, "is used by a VG but its metadata is missing.")
	_, err = r.host().CreateGroup(ctx, volume.GroupSpec{Name: "new"}, []string{a}, PVCreate{})
	wantErr(t, err, errs.Conflict, "is used by a VG but its metadata is missing.")
	_, err = r.host().RemovePVs(ctx, []string{a}, PVCreate{})
	wantErr(t, err, errs.Conflict, "is used by a VG but its metadata is missing")
}
