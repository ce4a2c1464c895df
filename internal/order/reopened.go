package order

import (
	"context"
	"time"
)

// shownTimeout bounds the wait for units that came back to be in the mirror,
// which takes some milliseconds.
const shownTimeout = time.Second

// showUnits waits until no replica refuses orders by what was before units came
// back, the last time that none were left. Sold earlier, they would be refused to
// their own buyers there, who ask again under their keys.
func (t *tenure) showUnits() error {
	if t.row.Reopened <= t.shown {
		return nil
	}
	ctx, cancel := context.WithTimeout(t.ctx, shownTimeout)
	defer cancel()
	// Whoever brought them back may have died before he could say so.
	t.cfg.Mirror.Changed(t.sku, t.row.Available)
	if err := t.cfg.Mirror.Shown(ctx, t.sku, t.row.Reopened); err != nil {
		return err
	}
	t.shown = t.row.Reopened
	return nil
}
