package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"cowl/internal/backup"
)

func newVerify(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "verify IMAGE...", Short: "Check that images are what they were when they were made", GroupID: groupOwn,
		Long: `Read images and compare them with their manifests and checksum files. What is
damaged is named by the bytes that differ.`,
		Example: `  cowl verify /backups/*.raw`,
		Args:    atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var reports struct {
				Images []*backup.VerifyReport `json:"images"`
			}
			var failed error
			for _, image := range args {
				r, err := a.verify(cmd.Context(), image)
				if cmd.Context().Err() != nil {
					return err
				}
				if err != nil {
					a.complain(err)
					failed = errSilent
				}
				if err == nil && !asJSON {
					a.say("%s: good, %s of %s/%s at %s.", image, sizeText(r.Bytes), r.Manifest.Source.VG, r.Manifest.Source.LV,
						r.Manifest.Snapshot.Time.In(a.Zone).Format("2006-01-02 15:04:05 -0700"))
				}
				reports.Images = append(reports.Images, r)
			}
			if asJSON {
				return errors.Join(a.sayJSON(reports), failed)
			}
			return failed
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead of lines")
	return cmd
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
