package snap

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/filter/trace"
	"cowl/internal/block/mem"
)

var update = flag.Bool("update", false, "rewrite the golden traces")

// The order of operations is the crash safety. Each trace is a story; a change
// of the order shows as a diff, to be read line by line.
func TestOrderOfOperations(t *testing.T) {
	write := func(t *testing.T, d block.Device, off int64, n int) {
		t.Helper()
		if _, err := d.WriteAt(make([]byte, n), off); err != nil {
			t.Fatal(err)
		}
	}
	flush := func(t *testing.T, d block.Device) {
		t.Helper()
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for name, story := range map[string]func(t *testing.T, log *trace.Log, o *Origin){
		"first-write": func(t *testing.T, log *trace.Log, o *Origin) {
			traced(t, log, o, "a", 4096)
			traced(t, log, o, "b", 8192)
			log.Note("# a write to two chunks")
			write(t, o, 3584, 1024)
			log.Note("# flush")
			flush(t, o)
			log.Note("# the same chunks again")
			write(t, o, 3584, 1024)
		},
		"batch": func(t *testing.T, log *trace.Log, o *Origin) {
			a := traced(t, log, o, "a", 4096)
			log.Note("# three clients at once; the snapshot's own replaces a whole chunk")
			write(t, o, 40960, 4096)
			write(t, o, 512, 512)
			write(t, a, 8192, 4096)
		},
		"full-area": func(t *testing.T, log *trace.Log, o *Origin) {
			traced(t, log, o, "a", 512)
			log.Note("# 40 chunks of 512 bytes: 32 fill area 0")
			write(t, o, 0, 40*512)
			flush(t, o)
			log.Note("# 24 more fill area 1 to the last entry")
			write(t, o, 40*512, 24*512)
			flush(t, o)
		},
		"overflow": func(t *testing.T, log *trace.Log, o *Origin) {
			s, err := Open(log.Wrap("a", mem.New(3*4096)), Options{ChunkBytes: 4096})
			if err != nil {
				t.Fatal(err)
			}
			attach(t, o, s)
			write(t, o, 0, 1)
			log.Note("# no chunk is left")
			write(t, o, 4096, 1)
			log.Note("# the snapshot is dead")
			write(t, o, 8192, 1)
		},
		"merge": func(t *testing.T, log *trace.Log, o *Origin) {
			a := traced(t, log, o, "a", 4096)
			log.Note("# two chunks, one of them zero; the one before them; two elsewhere, the second first")
			fill(t, a, 4096, 1)
			write(t, a, 8192, 4096)
			fill(t, a, 0, 2)
			fill(t, a, 45056, 3)
			fill(t, a, 40960, 4)
			if err := o.StartMerge(a.Store(), a.Size()); err != nil {
				t.Fatal(err)
			}
			traced(t, log, o, "sibling", 4096)
			log.Note("# a merge step of at most two chunks")
			o.LimitMergeStep(2 * 4096)
			if left, err := o.MergeStep(); left != 3 || err != nil {
				t.Fatal(left, err)
			}
			log.Note("# a merge step")
			o.LimitMergeStep(mergeBytes)
			if left, err := o.MergeStep(); left != 0 || err != nil {
				t.Fatal(left, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			log := &trace.Log{Reads: true}
			o := NewOrigin(log.Wrap("origin", mem.New(1<<20)), OriginOptions{Manual: true})
			story(t, log, o)
			golden(t, filepath.Join("testdata", name+".trace"), log.Take())
		})
	}
}

// fill writes a chunk of 4096 bytes that is not zero.
func fill(t *testing.T, d block.Device, off int64, b byte) {
	t.Helper()
	if _, err := d.WriteAt(bytes.Repeat([]byte{b}, 4096), off); err != nil {
		t.Fatal(err)
	}
}

func traced(t *testing.T, log *trace.Log, o *Origin, name string, chunk int64) *Snapshot {
	t.Helper()
	log.Note("# snapshot %s, chunks of %d", name, chunk)
	return attach(t, o, openStore(t, log.Wrap(name, mem.New(1<<20)), chunk))
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update rewrites it):\ngot:\n%s\nwant:\n%s", file, got, want)
	}
}
