#!/bin/bash
# Runs one server of the ensemble. Its number is its pod's, counted from 1.
set -euo pipefail
mkdir -p /data/version
echo $((${HOSTNAME##*-} + 1)) >/data/version/myid
cat >/tmp/zoo.cfg <<-END
	dataDir=/data/version
	clientPort=2181
	tickTime=1000
	initLimit=10
	syncLimit=5
	maxClientCnxns=200
	standaloneEnabled=false
	quorumListenOnAllIPs=true
	admin.enableServer=false
	4lw.commands.whitelist=ruok,srvr,mntr
	autopurge.snapRetainCount=3
	autopurge.purgeInterval=1
	server.1=zookeeper-0.zookeeper:2888:3888
	server.2=zookeeper-1.zookeeper:2888:3888
	server.3=zookeeper-2.zookeeper:2888:3888
END
# An election waits at most 1 s between two messages, and not up to 60. Names are looked up
# again each second: a pod that was replaced has another address.
export JVMFLAGS="-Xmx${HEAP_MB}m -Dzookeeper.fastleader.maxNotificationInterval=1000 -Dsun.net.inetaddr.ttl=1 -Dsun.net.inetaddr.negative.ttl=0"
exec zkServer.sh start-foreground /tmp/zoo.cfg
