package repo

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/object"

	"cowl/internal/errs"
)

// checkBackups sees whether all that backups refer to is in blobs that are
// good.
func (v *verifier) checkBackups(ctx context.Context) error {
	all, err := v.r.List(ctx)
	if err != nil {
		if !errs.Is(err, errs.Corrupt) {
			return err
		}
		v.condemn("(manifests)", err.Error())
		return nil
	}
	for _, b := range all {
		verdict := &Verdict{Backup: b}
		if err := v.checkBackup(ctx, b, verdict); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			verdict.Fault = err.Error()
		}
		verdict.Good = verdict.Fault == "" && len(verdict.Damage) == 0
		v.v.Backups = append(v.v.Backups, verdict)
	}
	return nil
}

func (v *verifier) checkBackup(ctx context.Context, b *Backup, verdict *Verdict) error {
	m, _, err := v.r.Image(ctx, b)
	if err != nil {
		return err
	}
	dir, err := v.r.readDir(ctx, b)
	if err != nil {
		return err
	}
	for _, e := range dir.Entries {
		if e.ObjectID == m.root {
			continue
		}
		if cause := v.checkObject(ctx, e.ObjectID); cause != "" {
			return errs.E(errs.Corrupt, "file %s: %s", e.Name, cause)
		}
	}
	for g := range m.layout.Groups() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if v.known[m.groups[g]] {
			continue
		}
		if found := v.checkGroup(ctx, m, g); len(found) > 0 {
			verdict.Damage = append(verdict.Damage, found...)
			continue
		}
		v.known[m.groups[g]] = true
	}
	verdict.Damage = joinRanges(verdict.Damage)
	return nil
}

// checkGroup returns what of a group is damaged.
func (v *verifier) checkGroup(ctx context.Context, m *Image, g int64) []Range {
	var found []Range
	off := g * m.layout.Group
	if m.isZeroGroup(g) {
		if cause := v.checkObject(ctx, m.groups[g]); cause != "" {
			found = append(found, Range{off, m.layout.groupLen(g), cause})
		}
		return found
	}
	ids, err := v.r.loadIndex(ctx, m.groups[g], m.layout.Segment, m.layout.groupLen(g))
	if err != nil {
		return append(found, Range{off, m.layout.groupLen(g), err.Error()})
	}
	for i, id := range ids {
		if cause := v.checkObject(ctx, id); cause != "" {
			s := off/m.layout.Segment + int64(i)
			found = append(found, Range{s * m.layout.Segment, m.layout.segmentLen(s), cause})
		}
	}
	return found
}

// checkObject says what is wrong with an object, without reading it: with its
// contents' places in blobs, and those blobs.
func (v *verifier) checkObject(ctx context.Context, id object.ID) string {
	if cid, _, ok := id.ContentID(); ok {
		return v.checkContent(ctx, cid)
	}
	ids, err := v.r.rep.VerifyObject(ctx, id)
	if err != nil {
		return explain(ctx, err).Error()
	}
	for _, cid := range ids {
		if cause := v.checkContent(ctx, cid); cause != "" {
			return cause
		}
	}
	return ""
}

func (v *verifier) checkContent(ctx context.Context, id content.ID) string {
	info, err := v.r.rep.ContentInfo(ctx, id)
	if err != nil {
		return explain(ctx, err).Error()
	}
	length, ok := v.blobs[info.PackBlobID]
	switch cause := v.bad[info.PackBlobID]; {
	case v.examined[info.PackBlobID]:
		if v.lost[id] != "" {
			return fmt.Sprintf("blob %s is damaged", info.PackBlobID)
		}
	case cause != "":
		return fmt.Sprintf("blob %s: %s", info.PackBlobID, cause)
	case !ok:
		return fmt.Sprintf("blob %s is missing", info.PackBlobID)
	case int64(info.PackOffset)+int64(info.PackedLength) > length:
		return fmt.Sprintf("blob %s ends at byte %d, within content %s", info.PackBlobID, length, id)
	case info.Deleted:
		return fmt.Sprintf("content %s is marked as deleted", id)
	}
	return ""
}

// joinRanges joins neighbours of one cause.
func joinRanges(in []Range) []Range {
	slices.SortFunc(in, func(a, b Range) int { return cmp.Compare(a.Off, b.Off) })
	var out []Range
	for _, r := range in {
		if n := len(out) - 1; n >= 0 && out[n].Off+out[n].Len == r.Off && out[n].Cause == r.Cause {
			out[n].Len += r.Len
			continue
		}
		out = append(out, r)
	}
	return out
}

// VerifyBackup reads a backup's image as a restore would: every segment is
// fetched, decrypted and decompressed, and thereby compared with its hash.
// A verdict with Good false comes with an error of kind errs.Corrupt.
func (r *Repo) VerifyBackup(ctx context.Context, b *Backup, o VerifyOptions) (*Verdict, error) {
	verdict := &Verdict{Backup: b}
	m, _, err := r.Image(ctx, b)
	if err != nil {
		if errs.Is(err, errs.Corrupt) {
			verdict.Fault = err.Error()
			return verdict, err
		}
		return nil, err
	}
	todo, err := m.segmentsToRead(o.Sample)
	if errs.Is(err, errs.Corrupt) {
		verdict.Fault = err.Error()
		return verdict, err
	}
	if err != nil {
		return nil, err
	}
	total, done := todo.bytes(m.layout), new(atomic.Int64)
	var mu sync.Mutex
	groups := make([]int64, m.layout.Groups())
	for g := range groups {
		groups[g] = int64(g)
	}
	err = eachParallel(ctx, groups, func(ctx context.Context, g int64) error {
		from, to := m.layout.segments(g)
		for s := todo.next(from, to); s < to; s = todo.next(s+1, to) {
			if _, err := m.read(ctx, s); err != nil {
				if !errs.Is(err, errs.Corrupt) {
					return err
				}
				mu.Lock()
				verdict.Damage = append(verdict.Damage, Range{s * m.layout.Segment, m.layout.segmentLen(s), err.Error()})
				mu.Unlock()
			}
			if o.Progress != nil {
				o.Progress(done.Add(m.layout.segmentLen(s)), total)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	verdict.Damage = joinRanges(verdict.Damage)
	if verdict.Good = len(verdict.Damage) == 0; !verdict.Good {
		return verdict, errs.E(errs.Corrupt, "backup %s of %s/%s is damaged: %s", b.ID, b.VG, b.LV, verdict.cause())
	}
	return verdict, nil
}

// segmentsToRead chooses segments that are not known to be zero.
func (m *Image) segmentsToRead(sample float64) (*Set, error) {
	set := NewSet(m.layout.Segments())
	for e, err := range m.Extents(0, m.layout.Bytes) {
		if err != nil {
			return nil, err
		}
		if e.Kind == 0 && (sample == 0 || rand.Float64() < sample) {
			set.AddRange(m.layout, e.Off, e.Len)
		}
	}
	return set, nil
}
