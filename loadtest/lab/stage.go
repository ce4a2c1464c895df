package lab

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"flashsale/internal/sandbox"
)

// stage is the servers of games. They stay between two games, because people try again.
type stage struct {
	mu      sync.Mutex
	servers *sandbox.Stack // nil if none run
	games   int            // that use them
	last    int            // number of databases
	idle    *time.Timer    // stops the servers
}

// stageIdle is how long the servers stay without a game.
const stageIdle = 10 * time.Minute

// enter starts the servers if none run. leave must follow.
func (s *stage) enter(ctx context.Context, cfg *Config) (*sandbox.Stack, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle != nil {
		s.idle.Stop()
	}
	if s.servers != nil && s.games == 0 && anyEnded(s.servers.MySQL.Process, s.servers.Etcd[0].Process) {
		s.servers.Stop()
		s.servers = nil
	}
	if s.servers == nil {
		started, err := sandbox.Start(ctx, sandbox.Config{MySQL: true, Database: cfg.Database, EtcdNodes: 1, EtcdProgram: cfg.EtcdProgram})
		if err != nil {
			return nil, err
		}
		s.servers = started
	}
	s.games++
	return s.servers, nil
}

// anyEnded reports whether one of our own servers has ended, as when memory ran out.
func anyEnded(servers ...*sandbox.Process) bool {
	return slices.ContainsFunc(servers, func(p *sandbox.Process) bool {
		if p.Shared() {
			return false
		}
		select {
		case <-p.Done():
			return true
		default:
			return false
		}
	})
}

func (s *stage) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.games--
	s.idle = time.AfterFunc(stageIdle, s.close)
}

// close stops the servers, unless a game uses them.
func (s *stage) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle != nil {
		s.idle.Stop()
	}
	if s.servers != nil && s.games == 0 {
		s.servers.Stop()
		s.servers = nil
	}
}

// createDatabase makes an empty database, and returns its DSN.
func (s *stage) createDatabase(ctx context.Context, servers *sandbox.Stack) (name, dsn string, err error) {
	s.mu.Lock()
	s.last++
	name = fmt.Sprint("game_", s.last)
	s.mu.Unlock()
	dsn, err = servers.MySQL.CreateDatabase(ctx, name)
	return name, dsn, err
}
