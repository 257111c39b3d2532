// Package targets reads how people name a place for backups, and opens the
// repositories among them.
//
//	DIR                                   plain files in a directory
//	repo:DIR                              a repository in a directory
//	TARGET::BACKUP                        one backup in it
//
// A backup is named by its ID or the beginning of one, by VG/LV for the latest
// of a volume, or as "latest" if all are of one; of plain files by the image's file name.
package targets

import (
	"context"
	"path/filepath"
	"strings"

	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/localstore"
	"cowl/internal/errs"
)

// Kind says what a target is.
type Kind uint8

// The kinds.
const (
	Dir   Kind = iota // plain files
	Local             // a repository in a directory
)

// Target is a place for backups.
type Target struct {
	Kind Kind
	Path string // of a directory
	text string
}

// localScheme begins the name of a repository in a directory.
const localScheme = "repo:"

// separator stands between a target and a backup.
const separator = "::"

// Parse reads a target, and the backup in it that is named, "" if none is.
func Parse(text string) (Target, string, error) {
	rest, isLocal := strings.CutPrefix(text, localScheme)
	path, backup, hasBackup := strings.Cut(rest, separator)
	t := Target{Path: path, text: path}
	if isLocal { // first, or repo:::x would be a backup in a directory "repo"
		t.Kind, t.text = Local, localScheme+path
	}
	switch {
	case hasBackup && backup == "":
		return t, "", errs.E(errs.Usage, "%q names no backup behind %s", text, separator)
	case t.Path == "":
		return t, "", errs.E(errs.Usage, "%q names no directory", text)
	}
	return t, backup, nil
}

// SplitPath splits a path within a backup, a volume or an image off its name:
// TARGET::BACKUP:/PATH, DIR::IMAGE:/PATH, IMAGE:/PATH, VG/LV:/PATH. Without one
// it is "". Paths may have separators in them, and repositories colons before
// theirs.
func SplitPath(text string) (name, path string) {
	from := 0
	if strings.HasPrefix(text, localScheme) {
		at := strings.Index(text, separator)
		if at < 0 {
			return text, ""
		}
		from = at + len(separator)
	}
	if at := strings.Index(text[from:], ":/"); from+at > 0 && at >= 0 {
		return text[:from+at], text[from+at+1:]
	}
	return text, ""
}

// String returns the target as it was named.
func (t Target) String() string { return t.text }

// IsRepository tells whether the target is a repository.
func (t Target) IsRepository() bool { return t.Kind != Dir }

// CacheKey names the repository in every directory: it is the same for two
// names of one place as far as that can be told without looking.
func (t Target) CacheKey() string {
	if abs, err := filepath.Abs(t.Path); err == nil {
		return localScheme + abs
	}
	return t.text
}

// Open opens the place where a repository is, or, with create, is to be.
func (t Target) Open(_ context.Context, create bool) (repo.Store, error) {
	if t.Kind != Local {
		return repo.Store{}, errs.WithHint(errs.E(errs.Usage, "%s is not a repository", t),
			"A repository in a directory is named %sDIR.", localScheme)
	}
	st, err := localstore.New(t.Path, create)
	if errs.Is(err, errs.NotFound) && !create {
		err = errs.WithHint(err, "Make one with: cowl repo init %s", t)
	}
	return repo.Store{Storage: st, Name: t.String()}, err
}
