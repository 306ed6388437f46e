#!/usr/bin/env node
/**
 * The command line. A command's file is loaded when it is called, so `drivlm --help` needs neither addon nor sharp.
 *
 * Exit status: 0 done, 1 failed, 2 used wrongly, 130 interrupted.
 */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { Command, CommanderError, Option } from 'commander'
import { conversions } from '../grounding/conversion.ts'
import { packageRoot } from '../native.ts'
import { answerOptions, systemOptions, textOptions, viewOptions } from '../option-tables.ts'
import { cameras } from '../views/cameras.ts'
import { cannotWrite } from '../whole-file.ts'
import {
  addFlags,
  addLoadFlags,
  decimal,
  integer,
  integers,
  list,
  logTime,
  logTimes,
  port,
  seconds,
  shard,
  shardOfEnvironment,
} from './flags.ts'
import { errorText } from './terminal.ts'

/** Which clock says when a picture was taken. */
function clock(): Option {
  const help = 'when a picture was taken: its own stamp, or by the log (default: stamp)'
  return new Option('--time <clock>', help).choices(['stamp', 'publish', 'log'])
}

function version(): string {
  const file = path.join(packageRoot, 'package.json')
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
}

/** `CAM_FRONT_LEFT` is `--front-left`. */
function cameraFlag(camera: string): string {
  return camera.replace('CAM_', '').replace('_', '-').toLowerCase()
}

/** An unset variable (`--out "$OUT"`) is no folder: taken as one it would be the present one, or beside it. */
function refuseEmpty(command: Command): void {
  for (const option of command.options) {
    const value: unknown = command.getOptionValue(option.attributeName())
    if (mayBeEmpty.has(option.long ?? '') || ![value].flat().includes('')) continue
    command.error(`error: option '${option.flags}' argument '' is invalid. Expected something; leave the option out.`)
  }
}

/** An empty system message is one; a token of an unset variable is none. */
const mayBeEmpty = new Set(['--system', '--token'])

function program(): Command {
  const root = new Command('drivlm')
    .description('Asks vision-language models about what the cameras of a vehicle see.')
    .version(version(), '-V, --version')
    .exitOverride()
    .showHelpAfterError('(drivlm --help lists the commands)')
    .hook('preAction', (_, command) => refuseEmpty(command))

  addLoadFlags(root.command('demo'))
    .description('ask the bundled model about its bundled moments')
    .option('--json', 'print one JSON object')
    .action(async (flags) => (await import('./demo.ts')).demo(flags))

  const ask = root
    .command('ask')
    .description('ask a question about pictures')
    .argument('<question>', 'plain text; the chat template is added')
    .option(
      '-m, --model <dir>',
      'model folder as downloaded, or org/name of the hub (default: the bundled street-tiny)',
    )
  for (const camera of cameras) ask.option(`--${cameraFlag(camera)} <file>`, `picture of ${camera}`)
  ask
    .option('--views <dir>', 'folder of pictures named after cameras, such as CAM_FRONT.jpg')
    .option('--image <file>', 'a picture without a camera; may be given several times', list)
  addFlags(ask, { ...viewOptions, ...systemOptions, ...answerOptions, ...textOptions })
  ask
    .option('--timings', 'print the time of each stage on stderr')
    .option('--json', 'print one JSON object in place of streaming')
  addLoadFlags(ask).action(async (question, flags) => (await import('./ask.ts')).ask(question, flags))

  addLoadFlags(root.command('inspect'))
    .description('say what a model folder is, what it will need and what is missing')
    .argument('[dir]', 'model folder as downloaded, or org/name of the hub (default: the bundled street-tiny)')
    .option('--json', 'print one JSON object')
    .action(async (dir, flags) => (await import('./inspect.ts')).inspect(dir, flags))

  const evaluation = root
    .command('eval')
    .description('ask a model all questions of a file, score the answers, and report')
    .requiredOption('--data <file>', 'questions: a DriveLM file, or a question a line (JSONL)')
    .option('--images <dir>', 'folder the pictures are looked for in (default: that of the questions)')
    .option('-m, --model <dir>', 'model folder as downloaded, or org/name of the hub')
    .option('--predictions <file>', 'score these answers, or those in the folder of a run, and ask nothing')
    .option('--out <dir>', 'folder for answers and report; a run that was stopped goes on there')
    .option('--shard <i/n>', 'part i of n, for several machines; drivlm merge puts them together', shard)
    .option('--limit <n>', 'only the first n questions', integer(1))
    .option('--tags <list>', 'only questions with one of these tags, such as 0,2', integers)
    .option('--keep-going', 'skip and list what cannot be read, seen, answered or scored')
    .option('--judge-command <command>', 'rates an answer: JSON on stdin, a number from 0 to 100 on stdout')
    .option('--judge-jobs <n>', 'judges at work at the same time (default: 4)', integer(1))
    .option('--judgements <file>', 'ratings that were collected before, by question id')
    .addOption(
      new Option('--conversion <what>', 'object coordinates, to the canvas and back (default: auto)').choices(
        conversions,
      ),
    )
    .option('--concurrency <n>', 'questions of a moment decoded together (default: 1)', integer(1))
    .addOption(
      new Option('--pictures <how>', 'pictures in the report (default: embed)').choices(['embed', 'link', 'none']),
    )
    .option('--json', 'print one JSON object in place of the score sheet')
  addFlags(evaluation, { ...viewOptions, ...answerOptions, ...textOptions }, { maxNewTokens: 200, seed: 0 })
  addLoadFlags(evaluation).action(async (flags) =>
    (await import('./eval.ts')).evaluate({
      ...flags,
      shard: flags.shard ?? (flags.predictions ? undefined : shardOfEnvironment()),
    }),
  )

  root
    .command('merge')
    .description('put the answers of shards together')
    .argument('<run...>', 'output folders of drivlm eval --shard, or files of drivlm annotate --shard')
    .requiredOption('--out <dir>', 'folder, or file, for the whole')
    .option('--partial', 'take what is there of shards that are missing or unfinished')
    .action(async (runs, flags) => (await import('./merge.ts')).merge(runs, flags))

  root
    .command('adapt')
    .description('train a model on a domain, with its own questions and answers')
    .requiredOption('-m, --model <dir>', 'model folder to start from, or org/name of the hub')
    .requiredOption(
      '--data <file>',
      'DriveLM file, a question a line, InternVL meta file or list; may be repeated',
      list,
    )
    .option(
      '--out <dir>',
      'folder of the adapted model; its log and state go to <dir>.run, a run that was stopped goes on',
    )
    .option('--images <dir>', 'folder the pictures are looked for in (default: that of the data)')
    .option('--general <file>', 'general data of the same forms, to forget less; may be repeated', list)
    .option('--general-images <dir>', 'folder of their pictures (default: --images)')
    .option('--general-ratio <r>', 'general samples for each domain sample (default: 0.25 with --general)', decimal)
    .option('--passes <n>', 'how often the domain data are taken (default: 1)', integer(1))
    .option('--steps <n>', 'updates, in place of --passes', integer(1))
    .option('--packs-per-step <n>', 'packs of an update (default: 8)', integer(1))
    .option(
      '--questions-per-moment <n>',
      'questions that share their pictures (default: 32, 1 for InternVL lists)',
      integer(1),
    )
    .option('--max-length <tokens>', 'longest sample (default: 8192, or what the model takes)', integer(1))
    .option('--max-pack-tokens <n>', 'tokens of a pack (default: 16384)', integer(1))
    .option('--max-pack-tiles <n>', 'tiles of a pack (default: 48)', integer(1))
    .addOption(
      new Option('--loss-reduction <how>', 'what a long answer counts (default: square)').choices([
        'token',
        'sample',
        'square',
      ]),
    )
    .option('--augment', 'encode tiles as JPEG of random quality and decode them')
    .option('--max-left-out <share>', 'samples of a list that may be unusable (default: 0.01)', decimal)
    .addOption(
      new Option('--check <how>', 'pictures before the first update (default: whole)').choices(['whole', 'headers']),
    )
    .addOption(
      new Option('--train <part>', 'what is trained (default: all)').choices([
        'all',
        'projector',
        'language+projector',
        'head',
      ]),
    )
    .option('--tower-layers <n>', 'last layers of the tower trained beside a part (default: 0)', integer(0))
    .option('--learning-rate <x>', 'peak (default: 0.00001)', decimal)
    .option('--vision-learning-rate <x>', 'that of the vision tower (default: --learning-rate)', decimal)
    .addOption(
      new Option('--schedule <name>', 'course of the learning rate (default: cosine)').choices([
        'cosine',
        'linear',
        'constant',
      ]),
    )
    .option('--warmup-ratio <share>', 'updates in which it rises (default: 0.03)', decimal)
    .option('--warmup-steps <n>', 'the same as a number, in place of --warmup-ratio', integer(1))
    .option('--weight-decay <x>', 'default: 0.01', decimal)
    .addOption(new Option('--decay <what>', 'parameters that decay (default: all)').choices(['all', 'standard']))
    .option('--max-norm <x>', 'norm that gradients are clipped to (default: 1)', decimal)
    .option('--drop-path <rate>', "of the tower's last layer (default: 0.1)", decimal)
    .option('--ema-decay <x>', 'write a running mean of the weights (default: 0, none)', decimal)
    .option('--seed <n>', 'of order, draws and drop path (default: 42)', integer(0))
    .addOption(new Option('--precision <type>', 'of matrix products (default: f32)').choices(['f32', 'bf16']))
    .option('--threads <n>', 'the result does not depend on it (default: all cores)', integer(1))
    .option('--memory <GB>', 'most that it may take; refused if it needs more (default: what there is)', decimal)
    .option(
      '--tower-cache <GB>',
      'most disk in <dir>.run for what a frozen tower gives, so that a picture goes through it once (default: half of what is free)',
      decimal,
    )
    .option('--save-every <n>', 'updates between two saved states (default: 100)', integer(1))
    .option('--validate <file>', 'questions of the domain to score the weights with; the best are kept in <out>.best')
    .option('--validate-general <file>', 'general questions beside them')
    .option('--validate-images <dir>', 'folder of their pictures (default: that of the questions)')
    .option('--validate-every <n>', 'updates between two validations (default: a tenth of all)', integer(1))
    .option('--validate-limit <n>', 'only the first n questions of each', integer(1))
    .addOption(
      new Option('--conversion <what>', 'object coordinates, to the canvas (default: auto)').choices(conversions),
    )
    .addOption(
      new Option('--text <how>', '<image> in a question: a picture, or its letters (default: placeholders)').choices([
        'placeholders',
        'literal',
      ]),
    )
    .option('--plan', 'say what the run would take, and train nothing')
    .option('--yes', 'fetch a model that is given by name without asking')
    .option('--finish', 'end a run that was stopped: write what it had learned to <dir>, without another update')
    .option('--json', 'print one JSON object')
    .action(async (flags) => (await import('./adapt.ts')).adapt(flags))

  root
    .command('street')
    .description('draw six-camera moments with questions whose answers are known')
    .requiredOption('--out <dir>', 'a new folder for pictures and drivelm.json')
    .option('--scenes <n>', 'moments (default: 20)', integer(1), 20)
    .option('--seed <n>', 'seed of the first moment; the others follow (default: 1)', integer(0), 1)
    .option('--size <pixels>', 'side of each view, such as 112 or 448 (default: 112)', integer(28), 112)
    .option('--questions <n>', 'most questions of a moment (default: 12)', integer(0), 12)
    .option('--domain <name>', 'day-city, night-left, snow, or a JSON file of your own', 'day-city')
    .option('--json', 'print one JSON object')
    .action(async (flags) => (await import('./street.ts')).street(flags))

  const serving = root
    .command('serve')
    .description("answer over HTTP: OpenAI's chat completions, scenes, metrics")
    .option(
      '-m, --model <dir>',
      'model folder as downloaded, or org/name of the hub (default: the bundled street-tiny)',
    )
    .option('--host <address>', 'where to listen; beyond this machine a token is needed', '127.0.0.1')
    .option('--port <n>', 'port; 0 takes a free one', port, 8080)
    .option('--token <text>', 'what requests must bring as bearer token (default: DRIVLM_TOKEN)')
    .option('--max-requests <n>', 'requests at one time; more get 503', integer(1), 64)
    .option('--max-body <mebibytes>', 'largest request', integer(1, 2048), 32)
    .option('--max-pictures <n>', 'most pictures of a request', integer(1), 20)
    .option('--max-seconds <n>', 'longest time of a request', integer(1, 86_400), 300)
    .option('--logs', 'write a line of JSON for every request')
  addLoadFlags(serving).action(async (flags) => (await import('./serve.ts')).serve(flags))

  root
    .command('pull')
    .description("fetch a model of the hub into the cache that Python's huggingface_hub has too")
    .argument('<name>', 'org/name or org/name@revision')
    .option('--revision <revision>', 'branch, tag or commit (default: main)')
    .option('--dry-run', 'say what would be fetched, and fetch nothing')
    .option('--json', 'print one JSON object')
    .action(async (name, flags) => (await import('./pull.ts')).pullCommand(name, flags))

  root
    .command('models')
    .description('list the models in the cache, their size and what each is')
    .option('--json', 'print one JSON object')
    .action(async (flags) => (await import('./pull.ts')).models(flags))

  root
    .command('log')
    .description("say what is in a robot's log, and which topic looks like which camera")
    .argument('<log...>', 'MCAP, bag of ROS 1, file or folder of rosbag2; several are one recording')
    .option('--scan', 'read all of it, whatever its size and index')
    .option('--strict', 'damage is an error')
    .addOption(clock())
    .option('--ffmpeg <program>', 'take key frames of compressed video, decoded by it')
    .option('--json', 'print one JSON object')
    .action(async (logs, flags) => (await import('./log.ts')).showLog(logs, flags))

  const annotate = root
    .command('annotate')
    .description("ask about moments of a robot's log, and write the answers as a log beside it")
    .argument('<log...>', 'as for drivlm log')
    .requiredOption('--out <file>', 'MCAP with the answers')
    .option(
      '-m, --model <dir>',
      'model folder as downloaded, or org/name of the hub (default: the bundled street-tiny)',
    )
    .option('--ask <question>', 'may be given several times', list)
    .option('--questions <file>', 'a question a line')
    .option(
      '--locate <what>',
      'find it, and write its boxes as annotations of the picture; a whole sentence is asked as it is',
      list,
    )
    .option('--map <camera=topic>', 'in place of what names tell; several times, or a JSON file of them', list)
    .option('--every <seconds>', 'from one moment to the next; 0 takes all (default: 0.5)', seconds)
    .option('--at <times>', 'moments at these seconds from the first, such as 12.5,14, or stamps in ns', logTimes)
    .option('--moments <n>', 'so many, evenly spread', integer(1))
    .option('--on <topic>', 'the moment nearest to each message of this topic')
    .option(
      '--changed <levels>',
      'only where the picture of the reference camera has changed by so many of 255',
      decimal,
    )
    .option('--from <time>', "only from here on: seconds from the log's beginning, or ns", logTime)
    .option('--to <time>', 'only up to here', logTime)
    .option('--max-skew <seconds>', 'most that pictures of a moment are apart (default: 0.1)', seconds)
    .addOption(clock())
    .addOption(new Option('--missing <what>', 'moments that lack a camera (default: skip)').choices(['skip', 'black']))
    .option('--shard <i/n>', 'part i of n, for several machines; drivlm merge puts them together', shard)
    .option('--with-images', 'copy the pictures that were seen, as they were published')
    .option('--ffmpeg <program>', 'take key frames of compressed video, decoded by it')
    .option('--jsonl <file>', 'answers as JSON, a moment a line; - is stdout')
    .option('--strict', 'damage of the log is an error')
    .option('--resume', 'go on with a run that was stopped')
  addFlags(annotate, answerOptions)
  addLoadFlags(annotate).action(async (logs, flags) =>
    (await import('./annotate.ts')).annotate(logs, { ...flags, shard: flags.shard ?? shardOfEnvironment() }),
  )

  const watching = root
    .command('watch')
    .description("ask about what a robot's cameras see now, until Ctrl-C")
    .argument('<url>', "server of Foxglove's WebSocket protocol, such as ws://robot:8765")
    .option(
      '-m, --model <dir>',
      'model folder as downloaded, or org/name of the hub (default: the bundled street-tiny)',
    )
    .option('--ask <question>', 'may be given several times', list)
    .option('--questions <file>', 'a question a line')
    .option('--locate <what>', 'find it, and give its boxes; a whole sentence is asked as it is', list)
    .option('--rosbridge', 'the server is a rosbridge, such as ws://robot:9090')
    .option('--map <camera=topic>', 'in place of what names tell; may be given several times', list)
    .option('--every <seconds>', 'least from one moment to the next (default: 0, as fast as the model is)', seconds)
    .option('--deadline <ms>', 'answers that are not there so soon after their moment are given up', decimal)
    .option('--max-skew <seconds>', 'most that pictures of a moment are apart (default: 0.1)', seconds)
    .addOption(new Option('--missing <what>', 'moments that lack a camera (default: skip)').choices(['skip', 'black']))
    .option('--moments <n>', 'end after so many', integer(1))
    .option('--jsonl <file>', 'answers as JSON, a moment a line, added to the file; - is stdout')
    .option('--serve <port>', 'answers as channels for Foxglove and Lichtblick', port)
    .option('--host <address>', 'where --serve listens', '127.0.0.1')
  addFlags(watching, answerOptions)
  addLoadFlags(watching).action(async (url, flags) => (await import('./watch.ts')).watch(url, flags))

  root
    .command('doctor')
    .description('check the addon, the processor, the GPU and its driver, and say what to do')
    .option(
      '--deadline <ms>',
      'measure too, and propose the format or tile budget with which answers are there in time',
      decimal,
    )
    .option('-m, --model <dir>', 'what --deadline measures (default: the bundled street-tiny)')
    .option('--device <name>', 'auto, cpu, cuda or cuda:N')
    .option('--max-new-tokens <n>', 'tokens of an answer', integer(1), 32)
    .option('--yes', 'fetch a model that is given by name without asking')
    .option('--json', 'print one JSON object')
    .action(async (flags) => (await import('./doctor.ts')).doctor(flags))

  root
    .command('build')
    .description('build the addon on this machine, where no prebuilt one fits')
    .addOption(new Option('--cuda <what>', 'kernels for NVIDIA GPUs (default: auto)').choices(['auto', 'on', 'off']))
    .option('--jobs <n>', 'compilers at a time (default: as many as cores)', integer(1))
    .action(async (flags) => (await import('./build.ts')).build(flags))
  return root
}

// A reader that has seen enough (`drivlm demo | head -3`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0)
  process.stderr.write(`${errorText(cannotWrite('The output', error))}\n`) // a full disk, for instance
  process.exit(1)
})
process.stderr.on('error', () => undefined)

try {
  await program().parseAsync()
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : 2 // commander has said what is wrong
  } else {
    process.stderr.write(`${errorText(error)}\n`)
    process.exitCode = 1
  }
}
