package freeze

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"cowl/internal/errs"
)

// guarded tells that this program becomes a guard when it is started with a
// guard's arguments: it has asked Guard about its own. One that has not would do
// its usual work instead, and might in the course of it start another guard, and
// so on: nothing is held by such a program.
var guarded atomic.Bool

// checkGuarded refuses to hold anything in a program that cannot be a guard.
func checkGuarded() error {
	if guarded.Load() {
		return nil
	}
	return errs.WithHint(errs.E(errs.Unsupported, "this program cannot guard what it would hold: it does not begin with freeze.Guard"),
		"A program, or the TestMain of a test, that holds file systems calls freeze.Guard(os.Args[1:]) before anything else.")
}

// Guard runs the guard if these are a guard's arguments, and reports whether
// they were. It is to be called with the process's own arguments, before anything
// else; New refuses to hold anything where that was not done.
func Guard(args []string) bool {
	if slices.Equal(args, os.Args[1:]) {
		guarded.Store(true)
	}
	if len(args) < 3 || args[0] != guardArg {
		return false
	}
	// Only the process that holds something may end us.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGPIPE)
	// To kill the one that could free memory would help nobody.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	limit, err := time.ParseDuration(args[1])
	mounts, err2 := strconv.Atoi(args[2])
	if err == nil && err2 == nil && mounts >= 0 {
		watch(os.Stdin, os.Stdout, guardSteps(mounts, args[3:]), limit)
	}
	return true
}

// guardSteps is the list of steps as the first process has it: the mounts' files
// are inherited from 3 on.
func guardSteps(mounts int, devices []string) []step {
	var steps []step
	for i := range mounts {
		steps = append(steps, mountStep{f: os.NewFile(uintptr(3+i), fmt.Sprintf("mount %d", i))})
	}
	for _, uuid := range devices {
		steps = append(steps, deviceStep(uuid))
	}
	return steps
}

// again is how long after the limit, and after that, what was held since is let
// go of.
const again = 100 * time.Millisecond

// watch listens to the first process until it says that it is done. If it dies
// before, or the limit is over, what it has begun to hold is let go.
func watch(in io.Reader, out io.Writer, steps []step, limit time.Duration) {
	words := make(chan string)
	go func() {
		defer close(words)
		for lines := bufio.NewScanner(in); lines.Scan(); {
			words <- lines.Text()
		}
	}()
	begun, late := 0, false
	free := func() {
		// Errors have nobody to hear of them, and must not keep the rest held.
		// Also what was let go of before: the first process may have been in the
		// middle of holding it.
		for i := begun - 1; i >= 0; i-- {
			_ = steps[i].free()
		}
	}
	fmt.Fprintln(out, sayReady)
	var over <-chan time.Time
	for {
		select {
		case word, alive := <-words:
			switch {
			case !alive:
				free()
				return
			case word == sayEnd:
				return
			case word == askHeld && late:
				fmt.Fprintln(out, sayLate)
			case word == askHeld:
				fmt.Fprintln(out, sayHeld)
			default:
				n, _ := strconv.Atoi(word)
				begun = max(begun, min(n, len(steps)))
				if over == nil {
					over = time.After(limit)
				}
			}
		case <-over:
			late = true
			free()
			over = time.After(again) // it may go on holding things
		}
	}
}
