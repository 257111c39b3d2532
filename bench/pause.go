package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// pauses is how long requests took while snapshots were created, and in
// between, as fio's latency log says. In milliseconds.
type pauses struct {
	Load                      string
	Requests, Snapshots       int
	Between, BetweenMost      float64 // median and greatest latency without a snapshot under way
	Creating, CreatingMost    float64 // the same of requests that a creation overlaps
	CommandLeast, CommandMost float64 // how long lvcreate -s took in all
}

// pauseLoads are what goes on meanwhile: a program that waits for each write, one
// with a queue that never empties, and one that flushes.
var pauseLoads = []struct {
	name string
	args []string
}{
	{"4k random writes, 1000/s", []string{"--rw=randwrite", "--bs=4k", "--iodepth=1", "--rate_iops=1000"}},
	{"4k random writes, 1000/s, a flush every 32", []string{"--rw=randwrite", "--bs=4k", "--iodepth=1", "--rate_iops=1000", "--fsync=32"}},
	{"4k random reads and writes, depth 32", []string{"--rw=randrw", "--bs=4k", "--iodepth=32"}},
}

const (
	pauseSnapshots = 10
	pauseEvery     = time.Second
)

// measurePauses creates snapshots of a volume under load. Each is removed
// before the next comes: what is looked for is what a creation costs.
func (b *bench) measurePauses() error {
	if err := b.prepareCowl(); err != nil {
		return err
	}
	for _, load := range pauseLoads {
		p, err := b.pausesUnder(load.name, load.args)
		if err != nil {
			return fmt.Errorf("%s: %w", load.name, err)
		}
		b.results.Pauses = append(b.results.Pauses, p)
	}
	return nil
}

// interval is a stretch of time, in milliseconds of the epoch.
type interval struct{ from, to float64 }

func (b *bench) pausesUnder(name string, args []string) (p pauses, err error) {
	r, err := b.serveCowl()
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	log := b.path("pause")
	runtime := (pauseSnapshots + 2) * int(pauseEvery/time.Second)
	args = append(args, "--name=pause", "--ioengine=nbd", fmt.Sprintf("--size=%d", b.size), "--time_based", fmt.Sprintf("--runtime=%d", runtime),
		"--write_lat_log="+log, "--log_unix_epoch=1", "--output="+os.DevNull)
	fio := exec.CommandContext(b.ctx, "fio", append(args, r.target.args...)...)
	if err := fio.Start(); err != nil {
		return p, err
	}
	creations, err := b.snapshotsMeanwhile()
	if err := errors.Join(err, fio.Wait()); err != nil {
		return p, err
	}
	p = pauses{Load: name, Snapshots: len(creations)}
	for _, c := range creations {
		took := c.to - c.from
		p.CommandMost = max(p.CommandMost, took)
		if p.CommandLeast == 0 || took < p.CommandLeast {
			p.CommandLeast = took
		}
	}
	err = p.read(log+"_clat.1.log", creations)
	return p, err
}

// snapshotsMeanwhile creates and removes snapshots at even intervals, and
// returns when the creations were under way.
func (b *bench) snapshotsMeanwhile() ([]interval, error) {
	var creations []interval
	tick := time.NewTicker(pauseEvery)
	defer tick.Stop()
	for range pauseSnapshots {
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			return nil, b.ctx.Err()
		}
		from := time.Now()
		if err := b.takeSnapshots(1, "4k"); err != nil {
			return nil, err
		}
		creations = append(creations, interval{float64(from.UnixMicro()) / 1e3, float64(time.Now().UnixMicro()) / 1e3})
		if err := b.cowlDo("lvremove", "-y", "bench/snap0"); err != nil {
			return nil, err
		}
	}
	return creations, nil
}

// read sorts the requests of fio's log: time of completion in milliseconds,
// latency in nanoseconds, and what does not matter here.
func (p *pauses) read(path string, creations []interval) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	defer func() {
		logs, _ := filepath.Glob(strings.TrimSuffix(path, "_clat.1.log") + "_*.log")
		for _, name := range logs {
			os.Remove(name)
		}
	}()
	var between, creating []float64
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Split(lines.Text(), ", ")
		if len(fields) < 2 {
			return fmt.Errorf("fio's latency log has the line %q", lines.Text())
		}
		end, err1 := strconv.ParseFloat(fields[0], 64)
		took, err2 := strconv.ParseFloat(fields[1], 64)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		took /= 1e6
		overlaps := func(c interval) bool { return end+1 >= c.from && end-took <= c.to }
		if slices.ContainsFunc(creations, overlaps) {
			creating = append(creating, took)
		} else {
			between = append(between, took)
		}
	}
	if len(between) == 0 || len(creating) == 0 {
		return fmt.Errorf("%d requests while snapshots were created, %d in between", len(creating), len(between))
	}
	p.Requests = len(between) + len(creating)
	p.Between, p.BetweenMost = median(between), slices.Max(between)
	p.Creating, p.CreatingMost = median(creating), slices.Max(creating)
	return nil
}

// printPauses writes the table for people.
func (r *results) printPauses(to io.Writer) {
	if len(r.Pauses) == 0 {
		return
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\nlatency, ms\trequests\tbetween snapshots\tgreatest\twhile one is created\tgreatest\tlvcreate -s\n")
	for _, p := range r.Pauses {
		fmt.Fprintf(w, "%s\t%d\t%.2f\t%.1f\t%.2f\t%.1f\t%.0f to %.0f\n", p.Load, p.Requests, p.Between, p.BetweenMost, p.Creating, p.CreatingMost, p.CommandLeast, p.CommandMost)
	}
	w.Flush()
}
