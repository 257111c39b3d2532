package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"cowl/internal/backup"
	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/errs"
)

// verifyFlags are the options of cowl verify.
type verifyFlags struct {
	json, restart bool
	sample        option[float64]
	access        accessFlags
}

func newVerify(a *app) *cobra.Command {
	o := verifyFlags{sample: option[float64]{kind: "PERCENT", parse: parseSample}}
	cmd := &cobra.Command{
		Use: "verify IMAGE|DIR|REPOSITORY|REPOSITORY::BACKUP... [OPTION]...", Short: "Check that backups are what they were when they were made", GroupID: groupOwn,
		Long: `Read backups and compare them with their checksums.

Of an image, and of every image in a directory, the manifest and the checksum
file are compared with what is there; damage is named by the bytes that differ.

Of a repository every blob is read and compared with the checksum that it had
when it was written, and all that backups refer to must be in them; damage is
named by the blob, and by the backups and their bytes that it concerns.
Interrupted, it goes on where it was the next time, unless --restart says
otherwise. Of one backup in a repository everything is read as a restore reads
it: fetched, decrypted, decompressed. --sample reads a part only, by chance.

` + passwordHelp,
		Example: `  cowl verify /backups/*.raw
  cowl verify /backups
  cowl verify repo:/backups/cowl
  cowl verify repo:/backups/cowl --sample 5
  cowl verify repo:/backups/cowl::latest`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, a, args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	flagOf(f, &o.sample, "sample", "", "of a repository read this part only, chosen by chance")
	f.BoolVar(&o.restart, "restart", false, "begin anew instead of going on with an interrupted run")
	o.access.add(f)
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of lines")
	return cmd
}

// verifyReports is what --json prints.
type verifyReports struct {
	Images       []*backup.VerifyReport `json:"images"`
	Repositories []*repo.Verification   `json:"repositories,omitempty"`
	Backups      []*repo.Verdict        `json:"backups,omitempty"`
}

func (o *verifyFlags) run(cmd *cobra.Command, a *app, args []string) error {
	var reports verifyReports
	var failed error
	for _, arg := range args {
		t, name, err := targets.Parse(arg)
		if err != nil {
			return usageError(cmd, err)
		}
		if t.IsRepository() {
			err = o.repository(cmd.Context(), a, t, name, &reports)
		} else {
			err = o.images(cmd.Context(), a, t, name, &reports)
		}
		if cmd.Context().Err() != nil {
			return err
		}
		if err != nil {
			if !errors.Is(err, errSilent) {
				a.complain(err)
			}
			failed = coded{errSilent, max(exitCode(failed), exitCode(err))}
		}
	}
	if o.json {
		return errors.Join(a.sayJSON(reports), failed)
	}
	return failed
}

// images verifies an image, or all of a directory.
func (o *verifyFlags) images(ctx context.Context, a *app, t targets.Target, name string, reports *verifyReports) error {
	paths := []string{t.Path}
	if name != "" {
		paths = []string{filepath.Join(t.Path, name)}
	} else if st, err := os.Stat(t.Path); err == nil && st.IsDir() {
		all, err := backup.ListDir(t.Path)
		if err != nil {
			return err
		}
		if paths = nil; len(all) == 0 {
			return errs.E(errs.NotFound, "there are no backups in %s", t.Path)
		}
		for _, l := range all {
			paths = append(paths, l.Image)
		}
	}
	var failed error
	for _, image := range paths {
		r, err := a.verify(ctx, image)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			a.complain(err)
			failed = errSilent
		}
		if err == nil && !o.json {
			a.say("%s: good, %s of %s/%s at %s.", image, sizeText(r.Bytes), r.Manifest.Source.VG, r.Manifest.Source.LV,
				r.Manifest.Snapshot.Time.In(a.Zone).Format("2006-01-02 15:04:05 -0700"))
		}
		reports.Images = append(reports.Images, r)
	}
	return failed
}

// verify checks one image. There is a report in any case.
func (a *app) verify(ctx context.Context, image string) (*backup.VerifyReport, error) {
	p := a.newProgress()
	defer p.end()
	r, err := backup.Verify(ctx, image, p.reporter())
	if r == nil {
		r = &backup.VerifyReport{Image: image, Faults: []string{err.Error()}}
	}
	return r, err
}

// repository verifies a repository, or one backup in it.
func (o *verifyFlags) repository(ctx context.Context, a *app, t targets.Target, name string, reports *verifyReports) error {
	opened := false
	err := a.withRepo(ctx, t, o.access, true, func(r *repo.Repo) error {
		opened = true
		return a.withShared(ctx, r, "verification", func(ctx context.Context) error {
			if name != "" {
				return o.stored(ctx, a, t, r, name, reports)
			}
			return o.all(ctx, a, t, r, reports)
		})
	})
	if opened || !errs.Is(err, errs.Corrupt) {
		return err
	}
	// What cannot be opened can still be read.
	st, openErr := t.Open(ctx, a.Getenv, false)
	if openErr != nil {
		return err
	}
	defer st.Close(context.WithoutCancel(ctx))
	p := a.newProgress()
	v, storeErr := repo.VerifyStore(ctx, st, repo.VerifyOptions{Progress: p.absolute(backup.Verifying)})
	p.end()
	if v != nil {
		reports.Repositories = append(reports.Repositories, v)
		o.sayDamage(a, v)
	}
	return errors.Join(err, storeErr)
}

func (o *verifyFlags) all(ctx context.Context, a *app, t targets.Target, r *repo.Repo, reports *verifyReports) error {
	state, err := o.state(a, t)
	if err != nil {
		return err
	}
	p := a.newProgress()
	v, err := r.Verify(ctx, repo.VerifyOptions{Sample: o.sample.value, State: state, Progress: p.absolute(backup.Verifying)})
	p.end()
	if v == nil {
		return err
	}
	reports.Repositories = append(reports.Repositories, v)
	if err != nil {
		o.sayDamage(a, v)
		return err
	}
	if !o.json {
		how := ""
		if v.BlobsBefore > 0 {
			how = ", others by an earlier run"
		}
		a.say("%s: good, %d backups; %s in %d of %d blobs read%s.", t, len(v.Backups), sizeText(v.BytesRead), v.BlobsRead, v.Blobs, how)
	}
	return nil
}

// state is the file by which an interrupted verification is gone on with.
func (o *verifyFlags) state(a *app, t targets.Target) (string, error) {
	cache := a.repoCache(t)
	if o.sample.given || cache == "" {
		return "", nil
	}
	path := cache + ".verified"
	if o.restart {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return path, os.MkdirAll(filepath.Dir(path), 0o700)
}

// sayDamage lists what was found, one line each.
func (o *verifyFlags) sayDamage(a *app, v *repo.Verification) {
	for _, d := range v.Damage {
		a.note("Blob %s: %s", d.Blob, d.Cause)
	}
	for _, b := range v.Backups {
		if b.Good {
			continue
		}
		name := short(b.Backup.ID) + " of " + b.Backup.VG + "/" + b.Backup.LV
		if b.Fault != "" {
			a.note("Backup %s: %s", name, b.Fault)
		}
		for _, d := range b.Damage {
			a.note("Backup %s, bytes %d to %d: %s", name, d.Off, d.Off+d.Len-1, d.Cause)
		}
	}
}

func (o *verifyFlags) stored(ctx context.Context, a *app, t targets.Target, r *repo.Repo, name string, reports *verifyReports) error {
	b, err := r.Find(ctx, name)
	if err != nil {
		return err
	}
	p := a.newProgress()
	v, err := r.VerifyBackup(ctx, b, repo.VerifyOptions{Sample: o.sample.value, Progress: p.absolute(backup.Verifying)})
	p.end()
	if v != nil {
		reports.Backups = append(reports.Backups, v)
	}
	if err != nil {
		if v != nil {
			o.sayDamage(a, &repo.Verification{Backups: []*repo.Verdict{v}})
		}
		return err
	}
	if !o.json {
		a.say("%s::%s: good, %s of %s/%s at %s.", t, short(b.ID), sizeText(b.Bytes), b.VG, b.LV, b.Time.In(a.Zone).Format("2006-01-02 15:04:05 -0700"))
	}
	return nil
}
