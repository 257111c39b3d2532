package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// job is one run of fio.
type job struct {
	name  string
	does  string
	kind  kind
	depth int
	count int  // requests, at most one for each cluster when firsts
	flush int  // after so many writes, and at the end; 0 is never
	atEnd bool // a flush at the end only
}

// kind is what a job does.
type kind int

const (
	randomReads kind = iota
	clusterWrites
	sequentialReads
	sequentialWrites
)

// act is what a server does between its start and its end. A server with
// snapshots has fresh ones, so that an act's first writes copy out and
// what follows finds it done.
type act struct {
	name  string
	quick bool // part of -quick
	jobs  []job
}

// find returns the index of the job of that name, or -1.
func (a act) find(name string) int {
	return slices.IndexFunc(a.jobs, func(j job) bool { return j.name == name })
}

// acts are the workloads, in the order of the table's columns. The counts are
// large enough for several of cowl's batches: else its writes would only be staged.
var acts = []act{
	{"reads", true, []job{
		{name: "rr1", does: "4k random reads, depth 1", kind: randomReads, depth: 1, count: 16384},
		{name: "rr32", does: "4k random reads, depth 32", kind: randomReads, depth: 32, count: 98304},
		{name: "seqr", does: "1M sequential reads, depth 4, MB/s", kind: sequentialReads, depth: 4, count: 1024},
	}},
	{"first writes, depth 1", false, []job{
		{name: "fw1", does: "4k random first writes, depth 1", kind: clusterWrites, depth: 1, count: 12288},
	}},
	{"first writes, depth 32", false, []job{
		{name: "fw32", does: "4k random first writes, depth 32", kind: clusterWrites, depth: 32, count: 16384},
	}},
	{"first writes, depth 1, one flush", false, []job{
		{name: "fwe1", does: "as fw1, with a flush at the end that is in the time", kind: clusterWrites, depth: 1, count: 12288, atEnd: true},
		{name: "rw1", does: "the places of fwe1 again, no flush", kind: clusterWrites, depth: 1, count: 12288},
	}},
	{"first writes, depth 32, one flush", false, []job{
		{name: "fwe32", does: "as fw32, with a flush at the end that is in the time", kind: clusterWrites, depth: 32, count: 16384, atEnd: true},
		{name: "rw32", does: "the places of fwe32 again, no flush", kind: clusterWrites, depth: 32, count: 16384},
	}},
	{"first writes, depth 32, flushes", true, []job{
		{name: "fwf32", does: "as fw32, with a flush after every 32", kind: clusterWrites, depth: 32, count: 8192, flush: 32},
	}},
	{"first writes, flush each", false, []job{
		{name: "fl1", does: "as fw1, with a flush after each", kind: clusterWrites, depth: 1, count: 1024, flush: 1},
	}},
	{"sequential writes", true, []job{
		{name: "seqw", does: "1M sequential first writes, depth 4, MB/s", kind: sequentialWrites, depth: 4, count: 384},
		{name: "seqw2", does: "the same again, MB/s", kind: sequentialWrites, depth: 4, count: 384},
	}},
}

// clusters is how many first writes a fresh snapshot has room for.
func (b *bench) clusters() int { return int(b.size / clusterBytes) }

// requests is a job's number of requests on this volume.
func (b *bench) requests(j job) int {
	n := max(j.count/b.scale, 16)
	switch j.kind {
	case clusterWrites:
		return min(n, b.clusters())
	case sequentialReads, sequentialWrites:
		return min(n, int(b.size/mib))
	}
	return n
}

// target is what fio talks to.
type target struct {
	engine string   // fio's ioengine
	file   string   // as fio's replay log names it
	args   []string // engine's options
}

// measurement is one run of one job.
type measurement struct {
	rate      float64 // requests a second; MB/s if sequential
	cpuMicros float64 // of the server, for each request; negative if unknown
	client    float64 // percent of a core that fio took
}

// fio runs a job and returns what it measured.
func (b *bench) fio(r *running, j job) (measurement, error) {
	args := []string{"--name=" + j.name, "--output-format=json", "--ioengine=" + r.target.engine,
		"--iodepth=" + fmt.Sprint(j.depth), "--size=" + fmt.Sprint(b.size)}
	args = append(args, r.target.args...)
	n := b.requests(j)
	issued := n
	if j.flush > 0 || j.atEnd {
		issued++ // see replay
	}
	// At its end fio waits for nothing that is under way. It does before it
	// pauses to think, so it is told to after the last request.
	args = append(args, "--thinktime=1", "--thinktime_blocks_type=issue", fmt.Sprintf("--thinktime_blocks=%d", issued))
	switch j.kind {
	case randomReads:
		args = append(args, "--rw=randread", "--bs=4k", "--norandommap", "--randrepeat=1", fmt.Sprintf("--randseed=%d", seed))
	case sequentialReads:
		args = append(args, "--rw=read", "--bs=1M")
	case sequentialWrites:
		args = append(args, "--rw=write", "--bs=1M")
	case clusterWrites:
		log := filepath.Join(b.dir, "replay.log")
		if err := os.WriteFile(log, b.replay(j, n, r.target.file), 0o600); err != nil {
			return measurement{}, err
		}
		args = append(args, "--read_iolog="+log)
	}
	if j.kind != clusterWrites {
		args = append(args, fmt.Sprintf("--number_ios=%d", n))
		if j.flush > 0 {
			return measurement{}, fmt.Errorf("only writes to clusters can flush")
		}
	}
	before := r.process.cpu()
	out, err := exec.CommandContext(b.ctx, "fio", args...).Output()
	spent := r.process.cpu() - before
	if err != nil {
		return measurement{}, fmt.Errorf("fio: %w\n%s", err, out)
	}
	m, err := parseFio(out, j, n)
	m.cpuMicros = -1
	if r.process != nil {
		m.cpuMicros = float64(spent.Microseconds()) / float64(n)
	}
	return m, err
}

// replay returns fio's log of n writes of 4 KiB, each to a cluster of its own,
// in an order that only depends on seed and n. fio's own generators cannot
// both skip the rest of a cluster and visit none twice. A flush at the end is
// followed by one more write, of the first place: fio's pause, which waits for
// both, needs a write to come after.
func (b *bench) replay(j job, n int, file string) []byte {
	var log bytes.Buffer
	fmt.Fprintf(&log, "fio version 2 iolog\n%s add\n%s open\n", file, file)
	places := rand.New(rand.NewSource(seed)).Perm(b.clusters())[:n]
	write := func(cluster int) {
		fmt.Fprintf(&log, "%s write %d %d\n", file, cluster*clusterBytes, 4*kib)
	}
	for i, cluster := range places {
		write(cluster)
		if last := i == n-1; j.flush > 0 && (i+1)%j.flush == 0 || last && (j.flush > 0 || j.atEnd) {
			fmt.Fprintf(&log, "%s sync 0 0\n", file)
		}
	}
	if j.flush > 0 || j.atEnd {
		write(places[0])
	}
	fmt.Fprintf(&log, "%s close\n", file)
	return log.Bytes()
}

// parseFio finds the rate in fio's output. The time is the whole job's,
// flushes included.
func parseFio(out []byte, j job, n int) (measurement, error) {
	type side struct {
		Total   int     `json:"total_ios"`
		Runtime float64 `json:"runtime"` // milliseconds
		Bytes   float64 `json:"io_bytes"`
	}
	var report struct {
		Jobs []struct {
			Read, Write side
			Error       int
			User        float64 `json:"usr_cpu"` // percent
			System      float64 `json:"sys_cpu"`
		}
	}
	if i := bytes.IndexByte(out, '{'); i > 0 {
		out = out[i:] // fio's remarks
	}
	if err := json.Unmarshal(out, &report); err != nil || len(report.Jobs) != 1 {
		return measurement{}, fmt.Errorf("fio's output cannot be read (%v):\n%s", err, out)
	}
	s := report.Jobs[0].Read
	if j.kind == clusterWrites || j.kind == sequentialWrites {
		s = report.Jobs[0].Write
	}
	if report.Jobs[0].Error != 0 || s.Total < n {
		return measurement{}, fmt.Errorf("fio did %d of %d requests, error %d", s.Total, n, report.Jobs[0].Error)
	}
	seconds := max(s.Runtime, 1) / 1000
	m := measurement{rate: float64(s.Total) / seconds, client: report.Jobs[0].User + report.Jobs[0].System}
	if j.kind == sequentialReads || j.kind == sequentialWrites {
		m.rate = s.Bytes / 1e6 / seconds
	}
	return m, nil
}
