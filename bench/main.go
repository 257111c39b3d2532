// Command bench measures cowl beside its peers: fio's nbd engine against each
// server on a unix socket, over files prepared the same way, interleaved over
// several rounds. What counts are the ratios within a round; docs/benchmark.md
// says how to read them. It needs no privileges, and Linux.
//
//	go run ./bench                      a table, about 5 minutes a round on 2 cores
//	go run ./bench -quick               does it work? no numbers worth reading
//	go run ./bench -only cowl,nbdkit    servers whose name begins so
//	go run ./bench -jobs rr32,fwf32     the acts that these jobs are in
//	go run ./bench -pauses              what requests notice of a snapshot's creation
//	go run ./bench -merge               merges, beside merging one exception at a time
//	go run ./bench -backup              backups, beside restic, borg, qemu-img and dd
//	go run ./bench -look                files in an image, beside find and tar on a mount of it (root)
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	// clusterBytes keeps first writes apart: each goes to a cluster of its
	// own, which no server's unit of copying exceeds.
	clusterBytes = 64 * kib

	// seed orders the clusters, the same for all servers and rounds.
	seed = 20240607
)

// bench is one invocation.
type bench struct {
	ctx     context.Context
	dir     string // of our own, removed at the end
	cowl    string // the program
	size    int64  // of the volume, bytes
	scale   int    // every workload does 1/scale of its requests
	quick   bool   // only the acts for that
	rounds  int
	only    []string // prefixes of servers' names
	jobs    []string // names; nil is all
	counted bool     // count device operations as well
	pauses  bool     // measure snapshots' creation instead
	merges  bool     // measure merges instead
	backups bool     // measure backups instead
	look    bool     // measure looking into images instead
	results results
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run reads the options, measures and prints.
func run(ctx context.Context) error {
	b := &bench{ctx: ctx}
	size := flag.Int64("size", 1024, "size of the volume, MiB")
	flag.IntVar(&b.rounds, "rounds", 3, "how often everything is measured")
	full := flag.Bool("full", false, "a volume of 4 GiB, 5 rounds")
	flag.BoolVar(&b.quick, "quick", false, "a volume of 64 MiB, few workloads and requests, 1 round")
	flag.IntVar(&b.scale, "scale", 1, "do 1/`N` of the requests")
	only := flag.String("only", "", "measure servers whose name begins with one of these, separated by commas")
	jobs := flag.String("jobs", "", "play the acts that these jobs are in, separated by commas")
	asJSON := flag.Bool("json", false, "print everything that was measured as JSON")
	flag.StringVar(&b.cowl, "cowl", "", "measure this program instead of building one")
	where := flag.String("dir", os.TempDir(), "keep files below this directory; it should be on a disk, with room for 12 volumes")
	flag.BoolVar(&b.pauses, "pauses", false, "measure how long I/O pauses while snapshots are created, and nothing else")
	flag.BoolVar(&b.merges, "merge", false, "measure merges beside merging one exception at a time, and nothing else")
	flag.BoolVar(&b.backups, "backup", false, "measure backups beside restic, borg, qemu-img and dd, and nothing else; 2 GiB unless -size says otherwise")
	flag.BoolVar(&b.look, "look", false, "measure listing and archiving files in an image, beside find and tar on a mount of it, and nothing else; as root")
	flag.BoolVar(&b.counted, "counts", true, "count cowl's device operations, if strace is installed")
	flag.Parse()

	sized := false
	flag.Visit(func(f *flag.Flag) { sized = sized || f.Name == "size" })
	if b.backups && !sized {
		*size = 2048
	}
	if *full {
		*size, b.rounds = 4096, 5
	}
	if b.quick {
		*size, b.rounds, b.scale = 64, 1, 32
	}
	b.size = *size * mib
	if b.clusters() < 16 || b.rounds < 1 || b.scale < 1 {
		return fmt.Errorf("-size, -rounds and -scale must be at least 1")
	}
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	if *jobs != "" {
		b.jobs = strings.Split(*jobs, ",")
	}
	if _, err := exec.LookPath("fio"); err != nil && !b.merges && !b.backups && !b.look {
		return fmt.Errorf("fio is needed: %w", err)
	}
	var err error
	if b.dir, err = os.MkdirTemp(*where, "cowl-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.merges { // by the engine itself, in this process
	} else if b.cowl == "" {
		if err := b.build(); err != nil {
			return err
		}
	} else if b.cowl, err = filepath.Abs(b.cowl); err != nil {
		return err
	}
	// What has been measured is worth its print also when it was interrupted.
	err = b.measure()
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	b.results.LoadAfter = loadavg()
	b.results.compare()
	if *asJSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return errors.Join(err, out.Encode(b.results))
	}
	b.results.print(os.Stdout)
	return err
}

// build makes the program that is measured. Like `go run ./bench`, it must be
// run in the module.
func (b *bench) build() error {
	b.cowl = filepath.Join(b.dir, "cowl")
	cmd := exec.CommandContext(b.ctx, "go", "build", "-trimpath", "-o", b.cowl, "cowl/cmd/cowl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build cowl: %w\n%s", err, out)
	}
	return nil
}

// measure does all rounds. Within a round the servers take turns at each act,
// so that what compares them is seconds apart; each round begins with another.
func (b *bench) measure() error {
	b.results = b.newResults()
	if b.pauses {
		return b.measurePauses()
	}
	if b.merges {
		return b.measureMerges()
	}
	if b.backups {
		return b.measureBackups()
	}
	if b.look {
		return b.measureLooking()
	}
	for round := range b.rounds {
		servers := b.available()
		if len(servers) == 0 {
			return fmt.Errorf("no server to measure")
		}
		if err := b.prepare(servers); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
		for _, a := range acts {
			if !b.plays(a) {
				continue
			}
			for i := range servers {
				s := servers[(i+round)%len(servers)]
				b.progress("round %d/%d, %s, %s", round+1, b.rounds, a.name, s.name)
				if err := b.play(s, a); err != nil {
					return fmt.Errorf("%s: %s: %w", s.name, a.name, err)
				}
			}
		}
	}
	if b.counted {
		b.count()
	}
	b.progress("")
	return b.ctx.Err()
}

// plays tells whether an act is part of this invocation.
func (b *bench) plays(a act) bool {
	wanted := b.jobs == nil || slices.ContainsFunc(a.jobs, func(j job) bool { return slices.Contains(b.jobs, j.name) })
	return wanted && (a.quick || !b.quick)
}

// available returns the servers that are wanted and installed. It lists the
// others as skipped.
func (b *bench) available() []server {
	var list []server
	for _, s := range servers {
		if !b.wants(s.name) {
			continue
		}
		reason := ""
		for _, tool := range s.needs {
			if _, err := exec.LookPath(tool); err != nil {
				reason = tool + " is not installed."
			}
		}
		if reason == "" && s.check != nil {
			reason = s.check(b)
		}
		if reason != "" {
			b.results.Skipped[s.name] = reason
			continue
		}
		list = append(list, s)
	}
	return list
}

// wants tells whether the user asked for a server.
func (b *bench) wants(name string) bool {
	return b.only == nil || slices.ContainsFunc(b.only, func(p string) bool { return strings.HasPrefix(name, p) })
}

// play starts a server, with a snapshot of its own where it has one, and runs
// an act's jobs one after the other.
func (b *bench) play(s server, a act) (err error) {
	if err := b.settle(); err != nil {
		return err
	}
	r, err := s.start(b)
	if err != nil {
		return err
	}
	defer func() {
		if e := r.stop(); err == nil {
			err = e
		}
	}()
	for _, j := range a.jobs {
		if r.depth1 && j.depth > 1 {
			continue
		}
		m, err := b.fio(r, j)
		if err != nil {
			return fmt.Errorf("%s: %w", j.name, err)
		}
		b.results.add(s.name, j.name, m)
	}
	if r.process != nil {
		b.results.addPeak(s.name, r.process.peakKiB())
	}
	return nil
}

// settle writes out what the previous server left in the page cache.
func (b *bench) settle() error {
	return b.eachImage(func(f *os.File) error { return f.Sync() })
}

// eachImage calls do on every file of content.
func (b *bench) eachImage(do func(f *os.File) error) error {
	files, err := filepath.Glob(filepath.Join(b.dir, "*.img"))
	for _, name := range files {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		err = do(f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return err
}

// progress says on a terminal what is going on.
func (b *bench) progress(format string, args ...any) {
	if st, err := os.Stderr.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprintf(os.Stderr, "\r\033[K"+format, args...)
	}
}

// loadavg returns the machine's load over the last 1, 5 and 15 minutes.
func loadavg() string {
	text, err := os.ReadFile("/proc/loadavg")
	if fields := strings.Fields(string(text)); err == nil && len(fields) >= 3 {
		return strings.Join(fields[:3], " ")
	}
	return "unknown"
}

func (b *bench) newResults() results {
	return results{
		Date: time.Now().UTC().Format(time.RFC3339), SizeMiB: b.size / mib, Rounds: b.rounds, Scale: b.scale,
		LoadBefore: loadavg(), Skipped: map[string]string{}, Measured: map[string]map[string]*samples{},
		PeakKiB: map[string]int64{},
	}
}
