package hostlvm

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"cowl/internal/devmapper"
	"cowl/internal/errs"
	"cowl/internal/freeze"
	"cowl/internal/volume"
)

// LV is the runtime state of an active volume.
type LV struct {
	Info    devmapper.Info
	Path    string // of the device
	Cow     *Cow   // of a snapshot, nil otherwise
	Merging string // the snapshot that is being merged into this volume
}

// Cow is a store's usage as device-mapper's status line gives it, in sectors.
type Cow struct {
	Allocated, Total, Metadata int64
	Invalid                    bool // overflowed, or found invalid
	MergeFailed                bool
	Delayed                    bool // a merge waits for the next activation
	Reason                     string

	// What a Group knows of a snapshot that it watches, zero otherwise.
	Threshold int    // percent in use from which on it is extended
	Short     string // why it could not be extended when it had to be, for people
	FullIn    *time.Duration
}

// Running is the function Running for the group's metadata, in which each device
// that Open returned counts as one opener, however often the kernel has it open
// for us.
func (g *Group) Running(model *volume.Group) (map[string]LV, error) {
	all, err := Running(model)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, handles := range g.open {
		if lv, active := all[name]; active {
			lv.Info.Opens += handles - ownFiles(freeze.Device{Major: lv.Info.Major, Minor: lv.Info.Minor})
			all[name] = lv
		}
	}
	for name, k := range g.kept {
		if lv := all[name]; lv.Cow != nil {
			k.describe(lv.Cow)
		}
	}
	return all, nil
}

// Running returns what the kernel runs of a group, by name. It needs root.
func Running(model *volume.Group) (map[string]LV, error) {
	c, err := devmapper.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	out := map[string]LV{}
	for _, lv := range model.Visible() {
		info, err := c.Info(devmapper.LVMUUID(model.ID, lv.ID, devmapper.LayerNone))
		if errs.Is(err, errs.NotFound) || err == nil && !info.Live {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[lv.Name] = LV{Info: info, Path: "/dev/mapper/" + info.Name}
	}
	for _, s := range model.Snapshots() {
		if err := addSnapshot(c, model, s, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// addSnapshot adds what is known of a snapshot's store. One that is being merged
// has no device of its own any more: its store's usage is the origin's status.
func addSnapshot(c *devmapper.Control, model *volume.Group, s volume.Snap, out map[string]LV) error {
	origin, active := out[s.Origin.Name]
	lv, shown := out[s.Cow.Name]
	if !active || !shown && !s.Segment.Merging {
		return nil
	}
	of := s.Cow
	if s.Segment.Merging {
		of = s.Origin
	}
	targets, err := c.Status(devmapper.LVMUUID(model.ID, of.ID, devmapper.LayerNone))
	if errs.Is(err, errs.NotFound) {
		return nil // deactivated a moment ago
	}
	if err != nil {
		return err
	}
	cow := &Cow{Delayed: s.Segment.Merging}
	for _, t := range targets {
		switch t.Type {
		case "snapshot", "snapshot-merge":
			if *cow, err = parseCow(t.Status); err != nil {
				return fmt.Errorf("status of %s/%s: %w", model.Name, s.Cow.Name, err)
			}
		}
	}
	if s.Segment.Merging {
		origin.Merging = s.Cow.Name
		out[s.Origin.Name] = origin
		lv.Info = origin.Info
		lv.Info.Opens = 0 // those are the origin's
	}
	lv.Cow = cow
	out[s.Cow.Name] = lv
	return nil
}

// parseCow reads the status of a snapshot or of a merge: "16/2048 16", or what
// became of it in words.
func parseCow(status string) (Cow, error) {
	switch status {
	case "Invalid":
		return Cow{Invalid: true, Reason: "the kernel has given the snapshot up: it overflowed, or could not be written"}, nil
	case "Overflow":
		return Cow{Invalid: true, Reason: "the snapshot's store is full"}, nil
	case "Merge failed":
		return Cow{MergeFailed: true, Reason: "the kernel has stopped the merge after an error: look at its log"}, nil
	}
	f := strings.Fields(status)
	if len(f) == 2 {
		used, total, ok := strings.Cut(f[0], "/")
		a, err := strconv.ParseInt(used, 10, 54)
		b, err2 := strconv.ParseInt(total, 10, 54)
		m, err3 := strconv.ParseInt(f[1], 10, 54)
		if ok && err == nil && err2 == nil && err3 == nil && a >= 0 && b >= 0 && m >= 0 {
			return Cow{Allocated: a, Total: b, Metadata: m}, nil
		}
	}
	if status == "Unknown" || status == "" {
		return Cow{}, nil
	}
	return Cow{}, errs.E(errs.Corrupt, "%q is no usage of a snapshot", status)
}
