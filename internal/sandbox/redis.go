package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// redisPackage is Debian's. It starts no service, which redis-server's would,
// and yet has the server: one program is server, redis-check-rdb and
// redis-check-aof, and acts as the one that it is called by the name of.
const redisPackage = "redis-tools"

// RedisConfig says how a Redis server keeps its data.
type RedisConfig struct {
	// AppendAlways has each write synced to a log before it is answered
	// (appendfsync always). Without it nothing is kept: what was acknowledged is
	// gone when the server is.
	AppendAlways bool
}

// Redis is a private Redis server.
type Redis struct {
	*Process
	// Addr is its host and port.
	Addr string

	folder *folder
}

// StartRedis starts a server on a free port, with its data in a temporary folder.
// It is gone after Close, or with this process. ctx bounds the start alone.
func StartRedis(ctx context.Context, cfg RedisConfig) (*Redis, error) {
	folder, err := openFolder("")
	if err != nil {
		return nil, fmt.Errorf("open the server's folder: %w", err)
	}
	r := &Redis{folder: folder}
	if err := r.start(ctx, cfg); err != nil {
		return nil, errors.Join(err, folder.remove())
	}
	return r, nil
}

// StartRedisNodes starts so many servers at once, which know nothing of each
// other, as Redlock wants them. On an error none is left.
func StartRedisNodes(ctx context.Context, n int, cfg RedisConfig) ([]*Redis, error) {
	nodes := make([]*Redis, n)
	var group errgroup.Group
	for i := range nodes {
		group.Go(func() (err error) {
			nodes[i], err = StartRedis(ctx, cfg)
			return err
		})
	}
	err := group.Wait()
	if err == nil {
		return nodes, nil
	}
	for _, node := range nodes {
		if node != nil {
			err = errors.Join(err, node.Close())
		}
	}
	return nil, err
}

// Close ends the server and removes its data.
func (r *Redis) Close() error {
	return errors.Join(r.Stop(context.Background()), r.folder.remove())
}

func (r *Redis) start(ctx context.Context, cfg RedisConfig) error {
	program, err := redisProgram(r.folder.path)
	if err != nil {
		return err
	}
	reserved, err := ReservePort()
	if err != nil {
		return err
	}
	r.Addr = reserved.Addr
	host, port, _ := net.SplitHostPort(r.Addr) // our own
	argv := []string{
		program, "--bind", host, "--port", port, "--dir", r.folder.path,
		"--save", "", // no snapshots: a fork in the middle of a run
		"--auto-aof-rewrite-percentage", "0", // nor these
		"--daemonize", "no",
	}
	if cfg.AppendAlways {
		argv = append(argv, "--appendonly", "yes", "--appendfsync", "always")
	}
	r.Process, err = StartProcess(ctx, ProcessConfig{
		Name: "redis-server", Argv: argv, LogPath: filepath.Join(r.folder.path, "redis.log"),
		Ports: []*Port{reserved}, Ready: r.ready,
	})
	return err
}

// FindRedis says whether the server's program is installed.
func FindRedis() error {
	_, err := findRedis()
	return err
}

// findRedis finds the server, or the program that is one under another name.
func findRedis() (string, error) {
	if path, err := findProgram("redis-server", redisPackage); err == nil {
		return path, nil
	}
	path, err := findProgram("redis-check-rdb", redisPackage)
	if err != nil {
		return "", fmt.Errorf("redis-server is not installed: run `scripts/setup --redis` or `apt-get install %s`: %w", redisPackage, errors.Unwrap(err))
	}
	return path, nil
}

// redisProgram finds the server, and gives the program that is one its name.
func redisProgram(dir string) (string, error) {
	path, err := findRedis()
	if err != nil || filepath.Base(path) == "redis-server" {
		return path, err
	}
	named := filepath.Join(dir, "redis-server")
	return named, os.Symlink(path, named)
}

// ready asks for the folder: an answer from another server is none.
func (r *Redis) ready(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprint(conn, "CONFIG GET dir\r\n"); err != nil {
		return err
	}
	// An array of two strings: name and value, each with its length before it.
	const lines = 5
	answer := bufio.NewReader(conn)
	var last string
	for range lines {
		if last, err = answer.ReadString('\n'); err != nil {
			return fmt.Errorf("CONFIG GET dir: %q: %w", last, err)
		}
		if strings.HasPrefix(last, "-") { // still loading
			return fmt.Errorf("CONFIG GET dir: %s", strings.TrimSpace(last))
		}
	}
	if dir := strings.TrimSpace(last); filepath.Clean(dir) != r.folder.path {
		return fmt.Errorf("another server, of %s, answers at %s", dir, r.Addr)
	}
	return nil
}
