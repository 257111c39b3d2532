package main

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// counts are a server's device operations during one job, for each request.
type counts struct {
	Server, Job            string
	Reads, Writes, Flushes float64
	ReadKiB, WriteKiB      float64
}

// countedJobs end with a flush, so that all they cause happens within them.
var countedJobs = []string{"fwe1", "fwe32", "fwf32"}

// traced are the system calls by which cowl reaches a device; what it says to
// clients goes by others.
const traced = "pread64,preadv,preadv2,pwrite64,pwritev,pwritev2,fdatasync,fsync,fallocate"

// count runs cowl's servers once more, under strace, which needs no privilege
// for its own children. The times of these runs are not used. Where it cannot
// work it says so among the skipped.
func (b *bench) count() {
	if _, err := exec.LookPath("strace"); err != nil {
		b.results.Skipped["counts"] = "strace is not installed."
		return
	}
	for _, c := range []struct {
		name      string
		snapshots int
		chunk     string
	}{{"cowl", 0, ""}, {"cowl 1 snapshot 4k", 1, "4k"}, {"cowl 1 snapshot 64k", 1, "64k"}, {"cowl 8 snapshots 4k", 8, "4k"}} {
		if !b.wants(c.name) {
			continue
		}
		for _, name := range countedJobs {
			if !b.plays(findAct(name)) {
				continue
			}
			b.progress("counts, %s, %s", name, c.name)
			n, err := b.countJob(name, c.snapshots, c.chunk)
			if err != nil {
				b.results.Skipped["counts"] = "strace did not work: " + err.Error()
				return
			}
			n.Server = c.name
			b.results.Counts = append(b.results.Counts, n)
		}
	}
}

// findAct returns the act that a job belongs to.
func findAct(name string) act {
	return acts[slices.IndexFunc(acts, func(a act) bool { return a.find(name) >= 0 })]
}

// countJob counts what one job causes.
func (b *bench) countJob(name string, snapshots int, chunk string) (c counts, err error) {
	a := findAct(name)
	j := a.jobs[a.find(name)]
	if err := b.takeSnapshots(snapshots, chunk); err != nil {
		return c, err
	}
	defer func() {
		if e := b.dropSnapshots(snapshots); err == nil {
			err = e
		}
	}()
	log := b.path("strace.log")
	r, err := b.serveCowl("strace", "-f", "--seccomp-bpf", "-qq", "-s", "0", "-ttt", "-o", log, "-e", "trace="+traced)
	if err != nil {
		return c, err
	}
	if r.process.pid, err = b.cowlPID(); err != nil { // not strace's
		r.process.cmd.Process.Kill()
		return c, err
	}
	begin := time.Now()
	_, err = b.fio(r, j)
	end := time.Now()
	if e := r.stop(); err == nil {
		err = e
	}
	if err != nil {
		return c, err
	}
	c, err = readTrace(log, begin, end)
	c.scale(float64(b.requests(j)))
	c.Job = j.name
	return c, err
}

// cowlPID reads the id that the server leaves beside its socket.
func (b *bench) cowlPID() (int, error) {
	text, err := os.ReadFile(b.path("run/bench.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// call matches the line of strace that tells a call's result: "PID TIME
// name(...) = N" or, when others came in between, "PID TIME <... name resumed>...) = N".
var call = regexp.MustCompile(`^\d+ +(\d+\.\d+) (?:<\.\.\. )?(\w+).*= (\d+)$`)

// readTrace sums up the calls that ended between two moments.
func readTrace(path string, begin, end time.Time) (c counts, err error) {
	f, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer f.Close()
	matched := 0
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		m := call.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		matched++
		at, _ := strconv.ParseFloat(m[1], 64)
		if at < float64(begin.UnixMicro())/1e6 || at > float64(end.UnixMicro())/1e6 {
			continue
		}
		n, _ := strconv.ParseFloat(m[3], 64)
		switch {
		case strings.HasPrefix(m[2], "pread"):
			c.Reads, c.ReadKiB = c.Reads+1, c.ReadKiB+n/kib
		case strings.HasPrefix(m[2], "pwrite"):
			c.Writes, c.WriteKiB = c.Writes+1, c.WriteKiB+n/kib
		case strings.HasSuffix(m[2], "sync"):
			c.Flushes++
		}
	}
	if matched == 0 && lines.Err() == nil {
		return c, fmt.Errorf("its log holds no call")
	}
	return c, lines.Err()
}

// scale makes sums into means.
func (c *counts) scale(n float64) {
	for _, v := range []*float64{&c.Reads, &c.Writes, &c.Flushes, &c.ReadKiB, &c.WriteKiB} {
		*v = math.Round(*v/n*1e4) / 1e4
	}
}
