package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// Which devices are looked at, the first of these that is there:
//
//   - --devices, or $COWL_DEVICES (separated by commas): these and no others;
//     no devices file is read or written.
//   - --devicesfile, or $COWL_DEVICES_FILE: those it lists.
//   - the user's own devices file, $XDG_STATE_HOME/cowl/devices. It begins to
//     exist with the first pvcreate.
//   - for root, /etc/lvm/devices/cowl.devices, and beside it what the host's
//     LVM would look at: /etc/lvm/devices/system.devices if there is one, all
//     block devices otherwise. cowl never writes system.devices: if it came
//     to exist or changed, the host's own LVM would see other devices than
//     before, at the next boot for instance.

// candidate is a device that may be a PV.
type candidate struct {
	name   string
	id     volume.UUID // whose label it had when it was listed, "" if not known
	listed string      // by what, for warnings; "" for a scan of everything
}

// onlyThese returns the devices of --devices or $COWL_DEVICES, nil if neither is
// there.
func (h *Host) onlyThese() []string {
	list := h.o.Devices
	if len(list) == 0 {
		list = []string{h.o.Getenv("COWL_DEVICES")}
	}
	var out []string
	for _, item := range list {
		for name := range strings.SplitSeq(item, ",") {
			if name = strings.TrimSpace(name); name != "" {
				out = append(out, name)
			}
		}
	}
	return out
}

// defaultDevicesFile returns the devices file where none is named.
func (h *Host) defaultDevicesFile() (string, error) {
	if h.root && h.o.StateDir == "" {
		return filepath.Join(h.etcLVM(), "devices", "cowl.devices"), nil
	}
	dir, err := h.stateDir()
	return filepath.Join(dir, "devices"), err
}

// devicesFile returns the devices file that is in use, and whether somebody
// named it. A name without a slash is one beside the default, as LVM2 has it.
func (h *Host) devicesFile() (path string, named bool, err error) {
	name := h.o.DevicesFile
	if name == "" {
		name = h.o.Getenv("COWL_DEVICES_FILE")
	}
	if strings.ContainsRune(name, filepath.Separator) {
		return absolute(name), true, nil
	}
	path, err = h.defaultDevicesFile()
	if err == nil && name != "" {
		path = filepath.Join(filepath.Dir(path), name)
	}
	return path, name != "", err
}

// errNoDevicesFile is for a devices file that somebody named and that is not
// there. A command that would list a device in it creates it.
var errNoDevicesFile = errors.New("Devices file not found")

// candidates lists the devices to look at, each once.
func (h *Host) candidates() ([]candidate, []string, error) {
	c := &collector{seen: map[string]bool{}}
	if only := h.onlyThese(); only != nil {
		for _, name := range only {
			c.add(candidate{name: absolute(name), listed: "--devices"})
		}
		return c.list, nil, nil
	}
	path, named, err := h.devicesFile()
	if err != nil {
		return nil, nil, err
	}
	exists, err := c.file(path)
	switch {
	case err != nil:
		return nil, nil, err
	case named && !exists:
		return nil, nil, errs.E(errs.NotFound, "%w: %s", errNoDevicesFile, path)
	case named || !h.root || h.o.StateDir != "":
		return c.list, c.warnings, nil
	}
	exists, err = c.file(filepath.Join(h.etcLVM(), "devices", "system.devices"))
	if err == nil && !exists {
		for _, name := range blockDevices(h.o.Root) {
			c.add(candidate{name: name})
		}
	}
	return c.list, c.warnings, err
}

// collector gathers candidates.
type collector struct {
	list     []candidate
	seen     map[string]bool // canonical names
	warnings []string
}

func (c *collector) add(x candidate) {
	if key := canonical(x.name); !c.seen[key] {
		c.seen[key] = true
		c.list = append(c.list, x)
	}
}

func (c *collector) file(path string) (exists bool, err error) {
	l, warnings, exists, err := readDevices(path)
	if err != nil {
		return false, fmt.Errorf("devices file: %w", err)
	}
	c.warnings = append(c.warnings, warnings...)
	for _, e := range l.entries {
		c.add(candidate{name: e.name(), id: e.id, listed: filepath.Base(path)})
	}
	return exists, nil
}

// remember lists devices in the devices file, so that later commands find
// them; forget takes them off it. With --devices there is nothing to do.
func (h *Host) remember(ctx context.Context, pvs map[string]volume.UUID) error {
	return h.changeDevices(ctx, func(l *devicesList) {
		for name, id := range pvs {
			l.add(entryFor(name, id))
		}
	})
}

func (h *Host) forget(ctx context.Context, names []string) error {
	return h.changeDevices(ctx, func(l *devicesList) {
		for _, name := range names {
			l.remove(name)
		}
	})
}

func (h *Host) changeDevices(ctx context.Context, change func(*devicesList)) error {
	if h.onlyThese() != nil {
		return nil
	}
	path, _, err := h.devicesFile()
	if err != nil {
		return err
	}
	if err := h.updateDevices(ctx, path, change); err != nil {
		return fmt.Errorf("devices file %s: %w", path, err)
	}
	return nil
}

// checkListed refuses a device that is not among those of --devices.
func (h *Host) checkListed(name string) error {
	only := h.onlyThese()
	if only == nil {
		return nil
	}
	for _, o := range only {
		if canonical(o) == canonical(name) {
			return nil
		}
		if path, part := splitName(canonical(name)); part > 0 && canonical(o) == path {
			return nil
		}
	}
	if _, err := os.Stat(canonical(name)); err != nil {
		return errs.E(errs.NotFound, "No device found for %s.", name)
	}
	return errs.WithHint(errs.E(errs.Conflict, "Cannot use %s: device is not in devices list", name),
		"--devices and COWL_DEVICES must name all devices that the command uses.")
}
