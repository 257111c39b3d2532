package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cowl/internal/errs"
	"cowl/internal/format/config"
	"cowl/internal/volume"
)

// Settings are what the configuration file says.
type Settings struct {
	// Growth is for snapshots whose tags do not say otherwise.
	Growth volume.Growth
	// GrowFiles: files that are PVs may be made longer when a snapshot needs
	// space that its group has not.
	GrowFiles bool
}

// defaults are the settings without a file. LVM2 extends nothing by itself,
// with the numbers of its usual example.
var defaults = Settings{Growth: volume.Growth{
	Threshold: 70, Percent: 20, OnFull: volume.OnFullInvalidate, Hold: 10 * time.Minute,
}}

// ConfigName is the configuration file's name.
const ConfigName = "cowl.conf"

// configPath returns where the configuration file is, "" if there is no place
// for one.
func (h *Host) configPath() string {
	if h.root && h.o.StateDir == "" {
		return filepath.Join(h.etcLVM(), ConfigName)
	}
	dir, err := h.stateDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, ConfigName)
}

// Settings reads the configuration file, in the grammar of lvm.conf. It need not
// be there. What cowl does not know in it are warnings; a value that makes no
// sense is an error of kind errs.Corrupt that names file and line.
func (h *Host) Settings() (Settings, []string, error) {
	path := h.configPath()
	if path == "" {
		return defaults, nil, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return defaults, nil, nil
	}
	if err != nil {
		return defaults, nil, fmt.Errorf("configuration: %w", err)
	}
	s, warnings, err := parseSettings(path, text)
	if err != nil {
		return defaults, nil, errs.WithHint(err, "Mend the file, or remove it: cowl runs without one.")
	}
	return s, warnings, nil
}

func parseSettings(path string, text []byte) (Settings, []string, error) {
	list, err := config.Settings(path, text)
	if err != nil {
		return defaults, nil, err
	}
	s := defaults
	var warnings []string
	for _, item := range list {
		set, known := settings[item.Path]
		if !known {
			warnings = append(warnings, fmt.Sprintf("WARNING: %s line %d: there is no setting %s.", path, item.Line, item.Path))
			continue
		}
		if err := set(&s, textOf(item.Value)); err != nil {
			return defaults, nil, errs.E(errs.Corrupt, "%s line %d: %s: %w", path, item.Line, item.Path, err)
		}
	}
	return s, warnings, nil
}

// settings is what each of them does. The first two are LVM2's.
var settings = map[string]func(*Settings, string) error{
	"activation/snapshot_autoextend_threshold": func(s *Settings, text string) (err error) {
		s.Growth.Threshold, err = volume.ParseThreshold(text)
		return err
	},
	"activation/snapshot_autoextend_percent": func(s *Settings, text string) (err error) {
		s.Growth.Percent, err = volume.ParseGrowPercent(text)
		return err
	},
	"cowl/snapshot_on_full": func(s *Settings, text string) (err error) {
		s.Growth.OnFull, err = volume.ParseOnFull(text)
		return err
	},
	"cowl/snapshot_hold": func(s *Settings, text string) (err error) {
		s.Growth.Hold, err = volume.ParseHold(text)
		return err
	},
	"cowl/grow_pv_files": func(s *Settings, text string) (err error) {
		s.GrowFiles, err = parseSwitch(text)
		return err
	},
}

// textOf is a value as text; a list is none that any setting takes.
func textOf(v config.Value) string {
	switch v.Kind {
	case config.Int:
		return fmt.Sprint(v.Int)
	case config.Array:
		return "[...]"
	}
	return v.Text
}

// parseSwitch reads LVM2's 1 and 0.
func parseSwitch(text string) (bool, error) {
	switch text {
	case "0":
		return false, nil
	case "1":
		return true, nil
	}
	return false, errs.E(errs.Usage, "%q is neither 1 nor 0.", text)
}
