package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// redisTools is Debian's package. Unlike redis-server it starts no service. Its
// redis-check-rdb is the same program as redis-server: the name that it is called
// by selects what it does.
var redisTools = source{"scripts/setup --redis", "redis-tools"}

// RedisConfig says how a Redis server keeps its data.
type RedisConfig struct {
	// AppendAlways syncs each write to a log before it is acknowledged
	// (appendfsync always). Without it, nothing survives a restart.
	AppendAlways bool
}

// Redis is a private Redis server.
type Redis struct {
	*Process
	// Addr is its host and port.
	Addr string

	folder *folder
}

// StartRedis starts a server on a free port with its data in a temporary folder.
// It runs until Close or until this process ends. ctx bounds only the start.
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

// StartRedisNodes starts n independent servers at the same time, as Redlock needs
// them. On an error none is left running.
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

// Close stops the server and removes its data.
func (r *Redis) Close() error {
	return errors.Join(r.Stop(context.Background()), r.folder.remove())
}

func (r *Redis) start(ctx context.Context, cfg RedisConfig) error {
	program, err := findRedis()
	if err != nil {
		return err
	}
	if filepath.Base(program) != "redis-server" {
		named := filepath.Join(r.folder.path, "redis-server")
		if err := os.Symlink(program, named); err != nil {
			return err
		}
		program = named
	}
	port, err := ReservePort()
	if err != nil {
		return err
	}
	r.Addr = port.Addr
	argv := []string{
		program, "--bind", loopback, "--port", portOf(r.Addr), "--dir", r.folder.path,
		// No snapshots and no rewrites of the log: both would fork during a run.
		"--save", "", "--auto-aof-rewrite-percentage", "0",
		"--daemonize", "no",
	}
	if cfg.AppendAlways {
		argv = append(argv, "--appendonly", "yes", "--appendfsync", "always")
	}
	r.Process, err = StartProcess(ctx, ProcessConfig{
		Name: "redis-server", Argv: argv, LogPath: filepath.Join(r.folder.path, "redis.log"),
		Ports: []*Port{port}, Ready: r.ready,
	})
	return err
}

// FindRedis returns a *MissingError if the server's program is not installed.
func FindRedis() error {
	_, err := findRedis()
	return err
}

// findRedis finds the server, or the same program under its other name.
func findRedis() (string, error) {
	path, err := findProgram("redis-server", redisTools)
	if err != nil {
		if other, otherErr := findProgram("redis-check-rdb", redisTools); otherErr == nil {
			return other, nil
		}
	}
	return path, err
}

// ready compares the server's folder with ours: another server may answer at Addr.
func (r *Redis) ready(ctx context.Context) error {
	return query(ctx, r.Addr, "CONFIG GET dir\r\n", func(answer *bufio.Reader) error {
		// An array of two strings, the name and the value, each after its length.
		const lines = 5
		var last string
		for range lines {
			var err error
			if last, err = answer.ReadString('\n'); err != nil {
				return err
			}
			if strings.HasPrefix(last, "-") { // still loading
				return errors.New(strings.TrimSpace(last))
			}
		}
		if dir := strings.TrimSpace(last); filepath.Clean(dir) != r.folder.path {
			return fmt.Errorf("the server at %s is another one: its folder is %s", r.Addr, dir)
		}
		return nil
	})
}
