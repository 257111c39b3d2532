package cli

import (
	"context"

	"cowl/internal/cli/fields"
)

// inventory reads all groups and PVs that can be seen.
func (a *app) inventory(ctx context.Context) (*fields.Data, error) {
	return a.source(ctx)
}
