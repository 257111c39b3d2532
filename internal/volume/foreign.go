package volume

import "cowl/internal/format/config"

// Segment types of volumes that only lvm2 runs, as far as it matters here what
// they are. Their segments are in Extra.
const (
	Thin      SegmentType = "thin" // a volume in a thin pool
	ThinPool  SegmentType = "thin-pool"
	CachePool SegmentType = "cache-pool"
)

// IsThin reports whether the LV is a volume in a thin pool.
func (lv *LV) IsThin() bool { return len(lv.Segments) > 0 && lv.Segments[0].Type == Thin }

// IsPool reports whether the LV gives space to others, and has no content of its
// own that anybody could read.
func (lv *LV) IsPool() bool {
	return len(lv.Segments) > 0 && (lv.Segments[0].Type == ThinPool || lv.Segments[0].Type == CachePool)
}

// Pool returns the name of the pool that a thin volume is in.
func (lv *LV) Pool() string { return lv.thinText("thin_pool") }

// ThinOrigin returns the name of the volume that a thin volume was taken of as a
// snapshot in their pool, "" if it was not, or if that volume is gone.
func (lv *LV) ThinOrigin() string { return lv.thinText("origin") }

// thinText reads a text of a thin volume's segment.
func (lv *LV) thinText(key string) string {
	if !lv.IsThin() {
		return ""
	}
	for _, n := range lv.Segments[0].Extra {
		if n.Key == key && n.Value.Kind == config.String {
			return n.Value.Text
		}
	}
	return ""
}

// ThinSnapshotsOf returns the volumes that were taken of a thin volume as
// snapshots in its pool. They are volumes of their own: unlike a Snap they live on
// when their origin is removed.
func (g *Group) ThinSnapshotsOf(origin *LV) []*LV {
	var out []*LV
	for _, lv := range g.LVs {
		if lv.ThinOrigin() == origin.Name {
			out = append(out, lv)
		}
	}
	return out
}

// ThinVolumesOf returns the names of the volumes in a thin pool.
func (g *Group) ThinVolumesOf(pool *LV) []string {
	var out []string
	for _, lv := range g.LVs {
		if lv.Pool() == pool.Name {
			out = append(out, lv.Name)
		}
	}
	return out
}
