package volume

import (
	"slices"

	"cowl/internal/format/config"
)

// Clone returns a deep copy.
func (g *Group) Clone() *Group {
	c := *g
	c.Status = slices.Clone(g.Status)
	c.Flags = slices.Clone(g.Flags)
	c.Tags = slices.Clone(g.Tags)
	c.Extra = cloneNodes(g.Extra)
	c.Outer = cloneNodes(g.Outer)
	c.PVs = make([]*PV, len(g.PVs))
	for i, pv := range g.PVs {
		c.PVs[i] = pv.clone()
	}
	c.LVs = make([]*LV, len(g.LVs))
	for i, lv := range g.LVs {
		c.LVs[i] = lv.clone()
	}
	return &c
}

func (pv *PV) clone() *PV {
	c := *pv
	c.Status = slices.Clone(pv.Status)
	c.Flags = slices.Clone(pv.Flags)
	c.Tags = slices.Clone(pv.Tags)
	c.Extra = cloneNodes(pv.Extra)
	return &c
}

func (lv *LV) clone() *LV {
	c := *lv
	c.Status = slices.Clone(lv.Status)
	c.Flags = slices.Clone(lv.Flags)
	c.Tags = slices.Clone(lv.Tags)
	c.Extra = cloneNodes(lv.Extra)
	c.ReadAhead = clonePtr(lv.ReadAhead)
	c.Major = clonePtr(lv.Major)
	c.Minor = clonePtr(lv.Minor)
	c.Segments = slices.Clone(lv.Segments)
	for i := range c.Segments {
		s := &c.Segments[i]
		s.Tags = slices.Clone(s.Tags)
		s.Stripes = slices.Clone(s.Stripes)
		s.Extra = cloneNodes(s.Extra)
	}
	return &c
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

func cloneNodes(nodes []config.Node) []config.Node {
	out := slices.Clone(nodes)
	for i := range out {
		out[i].Children = cloneNodes(out[i].Children)
		out[i].Value = cloneValue(out[i].Value)
	}
	return out
}

func cloneValue(v config.Value) config.Value {
	v.Array = slices.Clone(v.Array)
	for i := range v.Array {
		v.Array[i] = cloneValue(v.Array[i])
	}
	return v
}
