package manager

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cowl/internal/errs"
	"cowl/internal/forecast"
	"cowl/internal/volume"
)

// What is known of writes is kept in a file a group, writes/<id of the group>,
// beside a user's devices file (root's is in /var/lib/cowl: LVM's directory is
// for configuration). Losing it costs only knowledge, so it has no copies; what
// cannot be read of it is as if it were not there.

// patterns are what is known of a group's writes, by LV.
type patterns = map[volume.UUID]*forecast.Pattern

// learnedFormat and learnedVersion begin the file.
const (
	learnedFormat  = "cowl-writes"
	learnedVersion = 1
	maxLearned     = 64 << 20 // bytes that are read
)

// learned is the file's content.
type learned struct {
	Format  string      `json:"format"`
	Version int         `json:"version"`
	Group   string      `json:"group"` // its name, for people
	ID      volume.UUID `json:"group_id"`
	Volumes patterns    `json:"volumes"`
}

// encodeLearned returns the file for a group.
func encodeLearned(g *volume.Group, m patterns) ([]byte, error) {
	return json.Marshal(learned{learnedFormat, learnedVersion, g.Name, g.ID, m})
}

// decodeLearned reads a file of the group with the id. What it holds is
// validated; anything else is errs.Corrupt.
func decodeLearned(text []byte, id volume.UUID) (patterns, error) {
	var l learned
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, errs.E(errs.Corrupt, "%w", err)
	}
	switch {
	case l.Format != learnedFormat:
		return nil, errs.E(errs.Corrupt, "format %q, want %q", l.Format, learnedFormat)
	case l.Version != learnedVersion:
		return nil, errs.E(errs.Unsupported, "version %d, this cowl knows %d", l.Version, learnedVersion)
	case l.ID != id:
		return nil, errs.E(errs.Corrupt, "it is of group %q with id %q", l.Group, l.ID)
	}
	for lv, p := range l.Volumes {
		if _, err := volume.ParseUUID(string(lv)); err != nil {
			return nil, errs.E(errs.Corrupt, "volume %q: %w", lv, err)
		}
		if p == nil {
			return nil, errs.E(errs.Corrupt, "volume %s has no pattern", lv)
		}
		if err := p.Validate(); err != nil {
			return nil, errs.E(errs.Corrupt, "volume %s: %w", lv, err)
		}
	}
	return l.Volumes, nil
}

// learnedPath returns the file of a group.
func (h *Host) learnedPath(id volume.UUID) (string, error) {
	dir := h.o.Root + "/var/lib/cowl"
	if !h.root || h.o.StateDir != "" {
		var err error
		if dir, err = h.stateDir(); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "writes", id.String()), nil
}

// Learned returns what is known of the writes to a group's volumes from the
// times when they were last active, by LV; nothing if there is no such knowledge.
// Errors name the file: it can be removed.
func (h *Host) Learned(id volume.UUID) (patterns, error) {
	path, err := h.learnedPath(id)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLearned))
	var m patterns
	if err == nil {
		m, err = decodeLearned(text, id)
	}
	if err != nil {
		return nil, errs.WithHint(errs.E(errs.KindOf(err), "what is known of writes, in %s: %w", path, err),
			"It can be removed: it holds nothing but what was watched.")
	}
	return m, nil
}

// Learn keeps what is known of the writes to a group's volumes. A group without any
// has no file.
func (h *Host) Learn(g *volume.Group, m patterns) error {
	path, err := h.learnedPath(g.ID)
	if err != nil {
		return err
	}
	if len(m) == 0 {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := encodeLearned(g, m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return replaceFile(path, text)
}

// recall is Learned for the engine, which does without what cannot be read.
func (h *Host) recall(g *volume.Group) patterns {
	m, err := h.Learned(g.ID)
	if err != nil {
		h.o.Log.Warn("what was known of writes is lost", "err", err)
	}
	return m
}

// keep is Learn for the engine.
func (h *Host) keep(g *volume.Group, m patterns) {
	if err := h.Learn(g, m); err != nil {
		h.o.Log.Warn("what is known of writes cannot be kept", "err", err)
	}
}
