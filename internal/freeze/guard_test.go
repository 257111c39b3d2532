//go:build linux

package freeze

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cowl/internal/errs"
)

// recorder is a step that notes when it is let go of.
type recorder struct {
	id    int
	freed *[]int
}

func (r recorder) name() string { return "test" }
func (r recorder) hold() error  { return nil }
func (r recorder) free() error  { *r.freed = append(*r.freed, r.id); return nil }

// line is the guard's conversation as the first process has it.
type line struct {
	t   *testing.T
	in  *io.PipeWriter
	out *bufio.Reader
	// freed may be looked at when the guard waits for us.
	freed []int
	ended chan struct{}
}

func newLine(t *testing.T, limit time.Duration) *line {
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	l := &line{t: t, in: inW, out: bufio.NewReader(outR), ended: make(chan struct{})}
	steps := []step{recorder{1, &l.freed}, recorder{2, &l.freed}, recorder{3, &l.freed}}
	go func() {
		watch(inR, outW, steps, limit)
		close(l.ended)
	}()
	l.want(sayReady)
	return l
}

func (l *line) say(word string) {
	l.t.Helper()
	if _, err := io.WriteString(l.in, word+"\n"); err != nil {
		l.t.Fatal(err)
	}
	synctest.Wait()
}

// ask asks whether all is held.
func (l *line) ask(want string) {
	l.t.Helper()
	go io.WriteString(l.in, askHeld+"\n")
	l.want(want)
}

func (l *line) want(word string) {
	l.t.Helper()
	if got, err := l.out.ReadString('\n'); err != nil || got != word+"\n" {
		l.t.Fatalf("the guard says %q, %v, want %q", got, err, word)
	}
}

func (l *line) wantFreed(ids ...int) {
	l.t.Helper()
	if !slices.Equal(l.freed, ids) {
		l.t.Errorf("let go of %v, want %v", l.freed, ids)
	}
}

// A file system that stays frozen is a machine that hangs.
func TestGuardOfAKilledProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, time.Second)
		l.say("1")
		l.say("2")
		l.wantFreed()
		l.in.Close()
		<-l.ended
		l.wantFreed(2, 1)
	})
}

// A snapshot command that hangs must not hold a service for longer than was
// said, and whoever took snapshots meanwhile must hear that they are worth
// nothing.
func TestGuardOfASlowProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, time.Second)
		l.say("1")
		time.Sleep(900 * time.Millisecond)
		l.ask(sayHeld)
		time.Sleep(101 * time.Millisecond)
		l.wantFreed(1)
		l.say("3") // it had not noticed
		time.Sleep(again)
		l.wantFreed(1, 3, 2, 1)
		l.ask(sayLate)
		l.say(sayEnd)
		<-l.ended
		l.in.Close()
	})
}

// The guard has nothing to do where all went well.
func TestGuardOfAnHonestProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, time.Second)
		l.say("1")
		l.ask(sayHeld)
		l.say(sayEnd)
		<-l.ended
		l.in.Close()
		l.wantFreed()
	})
}

// Before the first thing is held there is no limit: writing back what is dirty
// takes as long as it takes.
func TestGuardWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, time.Second)
		time.Sleep(time.Hour)
		l.say("1")
		l.ask(sayHeld)
		l.in.Close()
		<-l.ended
	})
}

// unguarded makes the test binary a program that does not begin with Guard.
const unguarded = "COWL_TEST_UNGUARDED"

// holdUnguarded asks for a hold, after Guard was asked about arguments that are
// not the process's own: what a test does that runs a command line in itself.
func holdUnguarded() {
	Guard([]string{"backup", "vg/lv"})
	_, err := New(context.Background(), Plan{})
	fmt.Print(errs.KindOf(err), ": ", err)
}

// A program that would not become the guard that it starts would start itself,
// again and again.
func TestUnguardedProgramHoldsNothing(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), unguarded+"=1")
	out, err := cmd.CombinedOutput()
	if want := errs.Unsupported.String() + ": this program cannot guard"; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("a program without Guard: %v\n%s", err, out)
	}
}
