package engine

import (
	"testing"

	"cowl/internal/block"
	"cowl/internal/block/blocktest"
	"cowl/internal/volume"
)

// What users open is a block.Device like any other, whatever lies under it.
func TestVolumesAreDevices(t *testing.T) {
	sizes := []int64{extent, 5 * extent}
	for name, c := range map[string]struct {
		open     string // the volume that is tested
		snapshot bool   // whether the origin has one
	}{
		"plain volume": {"base", false},
		"origin":       {"base", true},
		"snapshot":     {"s", true},
	} {
		t.Run(name, func(t *testing.T) {
			var devs []block.Device
			factory := func(t *testing.T, size int64) block.Device {
				devs = memory(2, 3*mib)
				found(t, devs)
				g := mustOpen(t, devs)
				must(t)(g.Activate(ctx))
				must(t)(g.CreateLV(ctx, volume.LVSpec{Name: "base", Size: volume.Size{Bytes: size}}))
				if c.snapshot {
					must(t)(g.CreateSnapshots(ctx, []volume.SnapshotSpec{{Origin: "base", Name: "s", Size: volume.Size{Percent: 100, Of: volume.OfOrigin}}}))
				}
				return opened(t, g, c.open)
			}
			reopen := func(t *testing.T, d block.Device) block.Device {
				if err := d.(*handle).group.Close(); err != nil {
					t.Fatal(err)
				}
				return opened(t, mustOpen(t, devs), c.open)
			}
			blocktest.Run(t, factory, blocktest.Options{Sizes: sizes, Steps: 600, Reopen: reopen})
		})
	}
}

func TestReadOnlyVolumeIsADevice(t *testing.T) {
	g, _ := fresh(t, 1)
	must(t)(g.CreateLV(ctx, lv("base", 2, "")))
	d, err := g.Open(ctx, "base", false)
	if err != nil {
		t.Fatal(err)
	}
	b := blocktest.ReadAll(t, d)
	closeDev(t, d)
	must(t)(g.SetReadOnly(ctx, "base", true))
	blocktest.RunReadOnly(t, opened(t, g, "base"), b)
}
