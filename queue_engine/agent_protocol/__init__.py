"""The protocol between agents and the API: `POST /agent/v1/<call>` over HTTPS, with an agent token.

| call | the agent |
| --- | --- |
| `hello` | asks for the settings of its endpoint and the limits of the server |
| `claim` | claims tasks, and waits for them (long poll) |
| `start` | starts attempts of claimed tasks, which returns their inputs |
| `put-back` | returns claimed tasks that it has not started |
| `renew` | renews leases and learns which attempts it must stop |
| `watch` | waits until a task that it runs is cancelled (long poll) |
| `settle` | records outcomes and releases attempts |
| `register`, `report`, `remove` | maintains the record of its worker |
| `log` | sends lines of its container's log |

A request and a successful response are one frame each (`frames`): a JSON message (`messages`), and inputs or outputs as
bytes behind it. `calls` has the pairs of messages. An error is the JSON of every error of the API (`refusals`).

Every call may be repeated with the same request after a lost response, at any API process of the same store, and then
has the effect of a single call. Messages have no endpoint: the token has one, and a server uses no other.
"""
