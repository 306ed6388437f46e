import path from 'node:path'
import { cannotWrite, makeFolder, writeWhole } from '../../whole-file.ts'
import type { Report } from './build.ts'
import { reportCsv } from './csv.ts'
import { reportHtml } from './html.ts'
import { type PictureOptions, pagePictures } from './pictures.ts'

export {
  buildReport,
  type Latency,
  type Report,
  type ReportFrame,
  type ReportGroup,
  type ReportInput,
  type ReportQuestion,
  type Verdict,
} from './build.ts'
export { reportCsv } from './csv.ts'
export { reportHtml } from './html.ts'
export { type PagePicture, type PictureOptions, pagePictures } from './pictures.ts'
export { type PublishedScore, publishedScores } from './published.ts'

/**
 * Writes `report.html`, `report.json` and `report.csv`. The page is one file that works from disk without a network; pictures
 * beyond its budget are links to where they lie.
 *
 * @example
 * await writeReport(report, 'run', { resolve: (name, camera) => resolveImage(name, { images, data }, camera) })
 */
export async function writeReport(
  report: Report,
  folder: string,
  pictures: Omit<PictureOptions, 'folder'>,
): Promise<{ html: string; json: string; csv: string }> {
  await makeFolder(folder).catch((error) => {
    throw cannotWrite(folder, error)
  })
  const files = {
    html: path.join(folder, 'report.html'),
    json: path.join(folder, 'report.json'),
    csv: path.join(folder, 'report.csv'),
  }
  await writeWhole(files.html, reportHtml(report, await pagePictures(report, { ...pictures, folder })))
  await writeWhole(files.json, `${JSON.stringify(report, null, 1)}\n`)
  await writeWhole(files.csv, reportCsv(report))
  return files
}
