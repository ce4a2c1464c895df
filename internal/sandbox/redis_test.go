package sandbox_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

func TestRedisServesAndLeavesNothingBehind(t *testing.T) {
	tier.OnlyTestAll(t, "Redis")
	for _, always := range []bool{false, true} {
		t.Run(fmt.Sprintf("append always %v", always), func(t *testing.T) {
			temp := t.TempDir()
			t.Setenv("TMPDIR", temp)
			r, err := sandbox.StartRedis(t.Context(), sandbox.RedisConfig{AppendAlways: always})
			if err != nil {
				t.Fatal(err)
			}
			want := map[bool]string{false: "no", true: "yes"}[always]
			if got := ask(t, r.Addr, "CONFIG GET appendonly", 5); got != want {
				t.Errorf("appendonly is %q, want %q", got, want)
			}
			if got := ask(t, r.Addr, "SET a b", 1); got != "+OK" {
				t.Errorf("SET: %q", got)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			wantEmpty(t, temp)
		})
	}
}

// ask sends a command and returns the last line of its answer.
func ask(t *testing.T, addr, command string, lines int) (last string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, command+"\r\n")
	answer := bufio.NewReader(conn)
	for range lines {
		if last, err = answer.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return strings.TrimSpace(last)
}

func TestBinlogIsTurnedOnAndOff(t *testing.T) {
	ctx := t.Context()
	s := sandboxtest.Start(t, sandbox.Config{MySQL: true})
	for _, on := range []bool{true, false} {
		if err := s.MySQL.SetBinlog(ctx, on); err != nil {
			t.Fatal(err)
		}
		settings, err := s.MySQL.Settings(ctx)
		if err != nil {
			t.Fatal(err)
		}
		want := map[bool]string{false: "OFF", true: "ON"}[on]
		if settings["log_bin"] != want || on && settings["sync_binlog"] != "1" {
			t.Errorf("SetBinlog(%v): log_bin %s, sync_binlog %s", on, settings["log_bin"], settings["sync_binlog"])
		}
	}
}

// Each start sweeps abandoned folders, and must not sweep a folder that another start
// has just created.
func TestFoldersOfConcurrentStarts(t *testing.T) {
	tier.OnlyTestAll(t, "Redis")
	kept, remove, err := sandbox.TempFolder()
	if err != nil {
		t.Fatal(err)
	}
	const rounds, nodes = 3, 8
	for range rounds {
		all, err := sandbox.StartRedisNodes(t.Context(), nodes, sandbox.RedisConfig{})
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range all {
			if err := node.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("a folder in use was swept: %v", err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(kept); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v, want it removed", kept, err)
	}
}
