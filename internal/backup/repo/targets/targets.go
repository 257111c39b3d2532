// Package targets reads how people name a place for backups, and opens the
// repositories among them.
//
//	DIR                                   plain files in a directory
//	repo:DIR                              a repository in a directory
//	sftp:[USER@]HOST:DIR                  one in a directory of another host
//	sftp://[USER@]HOST[:PORT]/DIR         the same, DIR from the root
//	s3:[http://|https://]HOST/BUCKET[/PREFIX]   one in a bucket
//	TARGET::BACKUP                        one backup in it
//
// A backup is named by its ID or the beginning of one, by VG/LV for the latest
// of a volume, or as "latest" if all are of one; of plain files by the image's file name.
package targets

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"

	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/localstore"
	"cowl/internal/backup/repo/s3store"
	"cowl/internal/backup/repo/sftpstore"
	"cowl/internal/errs"
)

// Kind says what a target is.
type Kind uint8

// The kinds.
const (
	Dir   Kind = iota // plain files
	Local             // a repository in a directory
	SFTP              // a repository in a directory of another host
	S3                // a repository in a bucket
)

// Target is a place for backups.
type Target struct {
	Kind Kind
	Path string // of a directory; "" of a bucket
	text string
	sftp sftpstore.Options
	s3   s3store.Options
}

// What the names of repositories begin with.
const (
	localScheme = "repo:"
	sftpScheme  = "sftp:"
	s3Scheme    = "s3:"
)

// Names says how repositories are named, for those who did not.
const Names = "A repository is named repo:DIR, sftp:USER@HOST:DIR or s3:HOST/BUCKET."

// separator stands between a target and a backup.
const separator = "::"

// Parse reads a target, and the backup in it that is named, "" if none is.
func Parse(text string) (Target, string, error) {
	scheme := schemeOf(text)
	// Behind the scheme, or repo:::x would be a backup in a directory "repo";
	// behind a host in brackets, which has colons of its own.
	from := len(scheme)
	if rest := text[from:]; scheme == sftpScheme && strings.Contains(rest, "[") {
		if end := strings.Index(rest, "]"); end >= 0 && !strings.Contains(rest[:end], separator+"/") {
			from += end
		}
	}
	name, backup, hasBackup := strings.Cut(text[from:], separator)
	name = text[:from] + name
	t := Target{Path: name[len(scheme):], text: name}
	if hasBackup && backup == "" {
		return t, "", errs.E(errs.Usage, "%q names no backup behind %s", text, separator)
	}
	if t.Path == "" {
		return t, "", errs.E(errs.Usage, "%q names no directory", text)
	}
	var err error
	switch scheme {
	case localScheme:
		t.Kind = Local
	case sftpScheme:
		err = t.parseSFTP(t.Path)
	case s3Scheme:
		err = t.parseS3(t.Path)
	}
	return t, backup, err
}

// schemeOf returns what a name begins with, "" of a directory.
func schemeOf(text string) string {
	for _, s := range []string{localScheme, sftpScheme, s3Scheme} {
		if strings.HasPrefix(text, s) {
			return s
		}
	}
	return ""
}

// parseSFTP reads what is behind sftp:, USER@HOST:DIR as scp has it, or a URL's
// //USER@HOST:PORT/DIR.
func (t *Target) parseSFTP(rest string) error {
	t.Kind = SFTP
	o := &t.sftp
	url, isURL := strings.CutPrefix(rest, "//")
	if isURL {
		rest = url
	}
	at, dir := rest, ""
	switch i := behindHost(rest, isURL); {
	case i < 0:
	case isURL:
		at, dir = rest[:i], "/"+strings.TrimLeft(rest[i:], "/")
	default:
		at, dir = rest[:i], rest[i+1:]
	}
	if user, host, ok := strings.Cut(at, "@"); ok {
		o.User, at = user, host
		if strings.Contains(user, ":") {
			return errs.WithHint(errs.E(errs.Usage, "a password does not belong into the name of a repository"), "Use a key; ssh finds it.")
		}
	}
	if i := strings.LastIndex(at, ":"); isURL && i > strings.LastIndex(at, "]") {
		port, err := strconv.Atoi(at[i+1:])
		if err != nil || port < 1 {
			return errs.E(errs.Usage, "%q is no port", at[i+1:])
		}
		o.Port, at = port, at[:i]
	}
	o.Host, o.Path = strings.TrimSuffix(strings.TrimPrefix(at, "["), "]"), dir
	t.Path = dir
	if err := o.Validate(); err != nil {
		return errs.WithHint(errs.E(errs.Usage, "%s: %w", t.text, err), "It is sftp:USER@HOST:DIR, or sftp://USER@HOST:PORT/DIR.")
	}
	return nil
}

// behindHost is where the host ends: at a URL's slash, else at the colon, which
// is not one of those in brackets.
func behindHost(s string, isURL bool) int {
	from := 0
	if end := strings.Index(s, "]"); end >= 0 && strings.Contains(s[:end], "[") {
		from = end
	}
	end := ":"
	if isURL {
		end = "/"
	}
	if i := strings.Index(s[from:], end); i >= 0 {
		return from + i
	}
	return -1
}

// parseS3 reads what is behind s3:, HOST/BUCKET/PREFIX.
func (t *Target) parseS3(rest string) error {
	t.Kind, t.Path = S3, ""
	o := &t.s3
	name, isURL := strings.CutPrefix(rest, "https://")
	if !isURL {
		name, o.Plain = strings.CutPrefix(rest, "http://")
	}
	const form = "It is s3:HOST/BUCKET or s3:HOST/BUCKET/PREFIX; Amazon's host is s3.amazonaws.com."
	if strings.HasPrefix(name, "/") {
		return errs.WithHint(errs.E(errs.Usage, "%s names no host", t.text), form)
	}
	host, path, _ := strings.Cut(name, "/")
	bucket, prefix, _ := strings.Cut(path, "/")
	switch {
	case host == "" || bucket == "":
		return errs.WithHint(errs.E(errs.Usage, "%s names no bucket", t.text), form)
	case strings.ContainsAny(host, "@ \t"):
		return errs.WithHint(errs.E(errs.Usage, "%q is no host", host), "Keys do not belong into the name; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
	}
	o.Endpoint, o.Bucket = host, bucket
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		o.Prefix = prefix + "/"
	}
	return nil
}

// SplitPath splits a path within a backup, a volume or an image off its name:
// TARGET::BACKUP:/PATH, DIR::IMAGE:/PATH, IMAGE:/PATH, VG/LV:/PATH. Without one
// it is "". Paths may have separators in them, and repositories colons before
// theirs.
func SplitPath(text string) (name, path string) {
	from := 0
	if schemeOf(text) != "" {
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
	switch t.Kind {
	case SFTP:
		return sftpScheme + t.sftp.String() + ":" + strconv.Itoa(t.sftp.Port)
	case S3:
		return s3Scheme + t.s3.Endpoint + "/" + t.s3.Bucket + "/" + t.s3.Prefix
	}
	if abs, err := filepath.Abs(t.Path); err == nil {
		return localScheme + abs
	}
	return t.text
}

// SSHCommand is the variable that says what runs ssh, as the shell reads it.
const SSHCommand = "COWL_SSH_COMMAND"

// Open opens the place where a repository is, or, with create, is to be. The
// environment has the credentials of a bucket, and SSHCommand.
func (t Target) Open(ctx context.Context, getenv func(string) string, create bool) (repo.Store, error) {
	s := repo.Store{Name: t.String()}
	var err error
	switch t.Kind {
	case Local:
		s.Storage, err = localstore.New(t.Path, create)
	case SFTP:
		o := t.sftp
		o.Command = getenv(SSHCommand)
		s.Remote = true
		s.Storage, err = sftpstore.New(ctx, o, create)
	case S3:
		o := t.s3
		o.Getenv = getenv
		s.Remote, s.Confirms = true, true
		s.Storage, err = s3store.New(ctx, o)
	default:
		return repo.Store{}, errs.WithHint(errs.E(errs.Usage, "%s is not a repository", t), Names)
	}
	if errs.Is(err, errs.NotFound) && !create && t.Kind == Local {
		err = errs.WithHint(err, "Make one with: cowl repo init %s", t)
	}
	return s, err
}
