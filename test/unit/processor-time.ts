/** Seconds that this process has worked: what a bound on the cost of a function is held against, since wall time is also the other processes'. */
export function processorSeconds(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}
