package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/manager"
	"cowl/internal/volume"
)

// mapper is one run of cowl map.
type mapper struct {
	*app
	since string
	json  bool
}

func newMap(a *app) *cobra.Command {
	m := &mapper{app: a}
	cmd := &cobra.Command{
		Use: "map VG/LV [--since SNAPSHOT] [OPTION]...", Short: "Show where a volume has data, and what has changed in it", GroupID: groupOwn,
		Long: `Show a volume's map, a line for each range, in ascending order and without a gap:

  START LENGTH data|zero|same

in bytes. Data has to be read to know it; zero was never written or was
discarded, and reads as zeroes. With --since, same is what has not changed since
a snapshot was taken: it is as the snapshot shows it. What has changed is known by the
snapshot's chunks, from its COW store, and not read. It is all that was written
to, also where the same bytes were written again.

The volume is the snapshot's origin, or another snapshot of the same origin; then
what was written to the origin since the later of them is shown as well. The map
of a volume in use is out of date when it is printed: for a copy take a second
snapshot, and map that one since the first.`,
		Example: `  cowl map server1/root
  cowl map server1/root --since monday
  cowl map server1/tuesday --since server1/monday --json`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error { return m.run(cmd, args[0]) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&m.since, "since", "", "show what has changed since this `snapshot`")
	f.BoolVar(&m.json, "json", false, "print one JSON object instead of lines")
	return cmd
}

func (m *mapper) run(cmd *cobra.Command, arg string) error {
	name, since, err := m.names(arg)
	if err != nil {
		return usageError(cmd, err)
	}
	return m.withGroup(cmd.Context(), name.VG, func(g manager.Group, st *manager.Status) error {
		if err := m.print(cmd.Context(), g, st.Group, name.LV, since.LV); err != nil {
			return fmt.Errorf("map of %s: %w", name, err)
		}
		return nil
	})
}

// names reads the names of the volume and of the snapshot.
func (m *mapper) names(arg string) (name, since lvName, err error) {
	if name, err = m.lvArg(arg); err != nil || m.since == "" {
		return name, since, err
	}
	if since, err = splitName(m.since); err != nil {
		return name, since, err
	}
	if since.LV == "" {
		since = lvName{name.VG, since.VG}
	}
	if since.VG != name.VG || since == name {
		err = errs.E(errs.Usage, "%s is no snapshot to compare %s with.", since, name)
	}
	return name, since, err
}

// print prints the map of an LV.
func (m *mapper) print(ctx context.Context, g manager.Group, vg *volume.Group, lv, since string) error {
	var lists []*manager.Changes
	if since != "" {
		var err error
		if lists, err = changesBetween(ctx, g, vg, lv, since); err != nil {
			return err
		}
	}
	dev, err := g.Open(ctx, lv, true)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(m.Stdout, 64<<10)
	err = m.write(ctx, out, newMapHead(vg, vg.LV(lv), dev.Size(), lists), mapOf(dev, lists))
	return errors.Join(err, out.Flush(), dev.Close())
}

// changesBetween returns the changes between a volume and a snapshot, as one or
// two lists: where neither has anything, both are the same.
func changesBetween(ctx context.Context, g manager.Group, vg *volume.Group, lv, since string) ([]*manager.Changes, error) {
	from, err := vg.FindLV(since)
	if err != nil {
		return nil, err
	}
	to, err := vg.FindLV(lv)
	if err != nil {
		return nil, err
	}
	s, ok := vg.SnapshotOf(from)
	if !ok && from.ThinOrigin() != "" {
		return nil, errs.WithHint(errs.E(errs.Unsupported, "%s/%s is a snapshot in a thin pool: what has changed since cowl cannot tell", vg.Name, since),
			"Take one with a size (lvcreate -s -L), which has a store of its own.")
	}
	if !ok {
		return nil, errs.E(errs.Usage, "Logical volume %s/%s is not a snapshot.", vg.Name, since)
	}
	if origin, _ := family(vg, to); origin != s.Origin {
		return nil, errs.E(errs.Usage, "%s/%s is a snapshot of %s, not of %s.", vg.Name, since, s.Origin.Name, lv)
	}
	// What differs from the origin differs, and so does what the other snapshot has
	// differently from it.
	names := []string{since}
	if to != s.Origin {
		names = append(names, lv)
	}
	var lists []*manager.Changes
	for _, name := range names {
		c, err := g.Changed(ctx, name)
		if err != nil {
			return nil, err
		}
		lists = append(lists, c)
	}
	return lists, nil
}

// mapRange is a line of the map.
type mapRange struct {
	Start  int64  `json:"start"`
	Length int64  `json:"length"`
	Kind   string `json:"kind"`
}

// The kinds of ranges.
const (
	mapData = "data"
	mapZero = "zero"
	mapSame = "same"
)

// mapOf walks a volume's map: all of it, or, with lists of what has changed, that
// and the rest as the same.
func mapOf(dev block.Device, lists []*manager.Changes) iter.Seq2[mapRange, error] {
	return joinRanges(func(yield func(mapRange, error) bool) {
		at := int64(0)
		for r := range changedRanges(dev.Size(), lists) {
			if at < r.Off && !yield(mapRange{at, r.Off - at, mapSame}, nil) {
				return
			}
			for e, err := range dev.Extents(r.Off, r.Len) {
				kind := mapData
				if e.Kind != block.Data {
					kind = mapZero
				}
				if !yield(mapRange{e.Off, e.Len, kind}, err) || err != nil {
					return
				}
			}
			at = r.End()
		}
		if at < dev.Size() {
			yield(mapRange{at, dev.Size() - at, mapSame}, nil)
		}
	})
}

// joinRanges joins neighbours of one kind.
func joinRanges(seq iter.Seq2[mapRange, error]) iter.Seq2[mapRange, error] {
	return func(yield func(mapRange, error) bool) {
		var last mapRange
		for r, err := range seq {
			if err == nil && last.Length > 0 && r.Kind == last.Kind {
				last.Length += r.Length
				continue
			}
			if last.Length > 0 && !yield(last, nil) {
				return
			}
			if last = r; err != nil {
				yield(r, err)
				return
			}
		}
		if last.Length > 0 {
			yield(last, nil)
		}
	}
}

// changedRanges returns the union of lists, in ascending order and none
// overlapping the next; and what lies behind the end of the shortest, which is
// all where there is no list.
func changedRanges(size int64, lists []*manager.Changes) iter.Seq[manager.Range] {
	if len(lists) == 0 {
		return func(yield func(manager.Range) bool) { yield(manager.Range{Len: size}) }
	}
	all := lists[0].All()
	end := lists[0].Bytes
	for _, c := range lists[1:] {
		all, end = union(all, c.All()), min(end, c.Bytes)
	}
	if end < size {
		all = union(all, slices.Values([]manager.Range{{Off: end, Len: size - end}}))
	}
	return func(yield func(manager.Range) bool) {
		for r := range all {
			if r.Len = min(r.Len, size-r.Off); r.Len > 0 && !yield(r) {
				return
			}
		}
	}
}

// union joins two ascending lists into one without overlaps.
func union(a, b iter.Seq[manager.Range]) iter.Seq[manager.Range] {
	return func(yield func(manager.Range) bool) {
		next := [2]func() (manager.Range, bool){}
		var head [2]manager.Range
		var ok [2]bool
		for i, s := range []iter.Seq[manager.Range]{a, b} {
			var stop func()
			next[i], stop = iter.Pull(s)
			defer stop()
			head[i], ok[i] = next[i]()
		}
		at := int64(0) // all before it was yielded
		for ok[0] || ok[1] {
			i := 0
			if !ok[0] || ok[1] && head[1].Off < head[0].Off {
				i = 1
			}
			r := head[i]
			head[i], ok[i] = next[i]()
			if from := max(r.Off, at); from < r.End() {
				at = r.End()
				if !yield(manager.Range{Off: from, Len: at - from}) {
					return
				}
			}
		}
	}
}

// mapHead is what --json says before the ranges.
type mapHead struct {
	VG     string    `json:"vg"`
	VGUUID string    `json:"vg_uuid"`
	LV     string    `json:"lv"`
	LVUUID string    `json:"lv_uuid"`
	Seqno  uint64    `json:"seqno"`
	Bytes  int64     `json:"bytes"`
	Since  *mapSince `json:"since"`
}

// mapSince is the snapshot that a map is compared with.
type mapSince struct {
	Snapshot string    `json:"snapshot"`
	UUID     string    `json:"uuid"`
	Time     time.Time `json:"time"`
	Bytes    int64     `json:"bytes"`
	Chunk    int64     `json:"chunk_bytes"`
}

func newMapHead(vg *volume.Group, lv *volume.LV, size int64, lists []*manager.Changes) mapHead {
	h := mapHead{VG: vg.Name, VGUUID: vg.ID.String(), LV: lv.Name, LVUUID: lv.ID.String(), Seqno: vg.Seqno, Bytes: size}
	if len(lists) > 0 {
		c := lists[0]
		h.Since = &mapSince{Snapshot: c.Snapshot, UUID: c.SnapshotUUID, Time: c.Time, Bytes: c.Bytes, Chunk: c.Chunk}
	}
	return h
}

// write prints a map as it comes: there may be millions of ranges.
func (m *mapper) write(ctx context.Context, out *bufio.Writer, head mapHead, ranges iter.Seq2[mapRange, error]) error {
	if m.json {
		text, err := json.MarshalIndent(head, "", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s,\n  \"ranges\": [", strings.TrimSuffix(string(text), "\n}"))
	}
	n := 0
	for r, err := range ranges {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if !m.json {
			fmt.Fprintf(out, "%d %d %s\n", r.Start, r.Length, r.Kind)
			continue
		}
		sep := ",\n    "
		if n++; n == 1 {
			sep = "\n    "
		}
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s%s", sep, text)
	}
	if m.json {
		out.WriteString("\n  ]\n}\n")
	}
	return nil
}
