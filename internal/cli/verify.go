package cli

import (
	"github.com/spf13/cobra"

	"cowl/internal/backup"
	"cowl/internal/volume"
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
			var reports []*backup.VerifyReport
			var failed error
			for _, image := range args {
				p := a.newProgress()
				r, err := backup.Verify(cmd.Context(), image, p.reporter())
				p.end()
				if cmd.Context().Err() != nil {
					return err
				}
				switch {
				case r != nil && asJSON:
					reports = append(reports, r)
				case err == nil:
					a.say("%s: good, %s of %s/%s at %s.", image, volume.LongSize(r.Bytes), r.Manifest.Source.VG, r.Manifest.Source.LV,
						r.Manifest.Snapshot.Time.In(a.Zone).Format("2006-01-02 15:04:05 -0700"))
				}
				if err != nil {
					a.complain(err)
					failed = errSilent
				}
			}
			if asJSON {
				return firstError(a.sayJSON(struct {
					Images []*backup.VerifyReport `json:"images"`
				}{reports}), failed)
			}
			return failed
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead of lines")
	return cmd
}
