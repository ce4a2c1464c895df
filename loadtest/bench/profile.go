package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
)

// profile takes a CPU profile at each of the ports over the trial's window. wait
// returns when all profiles are written.
func (b *bench) profile(ctx context.Context, t *trial, ports []*sandbox.Port) (wait func() error) {
	var all errgroup.Group
	for i, port := range ports {
		name := fmt.Sprintf("%s %s round-%d replica-%d.pprof", t.peer.Name, t.Setting, t.round, i+1)
		path := filepath.Join(b.cfg.Profiles, strings.NewReplacer(" ", "_", ",", "", ":", "-").Replace(name))
		all.Go(func() error {
			if err := sleep.For(ctx, t.warmUp); err != nil {
				return err
			}
			if err := saveProfile(ctx, port.Addr, t.window, path); err != nil {
				return fmt.Errorf("profile replica %d: %w", i+1, err)
			}
			return nil
		})
	}
	return all.Wait
}

func saveProfile(ctx context.Context, addr string, window time.Duration, path string) error {
	seconds := max(int(window.Seconds()), 1) // pprof accepts whole seconds only
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", addr, seconds)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	request.Close = true // the connection is not reused
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	profile, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, profile)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, profile, 0o600)
}
