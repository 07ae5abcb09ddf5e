// A guest of a Gossamer daemon. Usage: node guest.js ADDRESS TOPIC COUNT
//
// Prints one JSON object a line: whom it has identified, how long a ping took, that it has subscribed, and then COUNT
// announcements of the topic. Whoever starts it sets its time limit.

import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { decode } from '@msgpack/msgpack'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

// js-libp2p 3 is written for Node.js 22, of which this is all that Node.js 20 lacks.
Promise.withResolvers ??= function () {
  const deferred = {}
  deferred.promise = new Promise((resolve, reject) => Object.assign(deferred, { resolve, reject }))
  return deferred
}

const [address, topic, count] = process.argv.slice(2)
const hex = (bytes) => Buffer.from(bytes).toString('hex')
const tell = (what) => console.log(JSON.stringify(what))

const node = await createLibp2p({
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping(), pubsub: gossipsub() }
})

let heard = 0
const done = Promise.withResolvers()
node.services.pubsub.addEventListener('message', ({ detail }) => {
  if (detail.topic !== topic) return
  const [version, round, aggregates] = decode(detail.data)
  tell({ heard: { from: detail.from.toString(), type: detail.type, version, round, aggregates: aggregates.map(hex), raw: hex(detail.data) } })
  if (++heard >= Number(count)) done.resolve()
})
node.addEventListener('peer:disconnect', () => done.reject(new Error('the daemon has hung up')))
node.services.pubsub.subscribe(topic)

const identified = new Promise((resolve) => node.addEventListener('peer:identify', ({ detail }) => resolve(detail)))
const connection = await node.dial(multiaddr(address))
const { agentVersion, protocolVersion, protocols, listenAddrs, observedAddr, signedPeerRecord } = await identified
tell({
  identified: {
    peer: connection.remotePeer.toString(),
    agent: agentVersion,
    protocol: protocolVersion,
    protocols,
    listens: listenAddrs.map(String),
    observed: String(observedAddr),
    record: signedPeerRecord ?? null
  }
})
tell({ pinged: { ms: await node.services.ping.ping(connection.remotePeer) } })
await done.promise
await node.stop()
