/** Where the files of a model come from: a folder beside the page, or one that the visitor chooses. */

/**
 * @typedef {object} Folder
 * @property {string} name What messages call it.
 * @property {(file: string) => Promise<?Uint8Array>} read The bytes of a file; null where there is none.
 */

/**
 * A folder on the server that the page comes from.
 * @param {string} path Relative to the page, such as "model".
 * @param {(bytes: number) => void} progress Called with the size of each piece that has arrived.
 * @returns {Folder}
 */
export function folderAt(path, progress = () => {}) {
  const base = new URL(`${path.replace(/\/+$/, "")}/`, self.location.href);
  if (base.origin !== self.location.origin) {
    throw new Error(
      `${base.host} is another server, which this page never asks; put the model's folder beside the page.`,
    );
  }
  return {
    name: path,
    async read(file) {
      const address = new URL(file, base);
      if (!address.href.startsWith(base.href))
        throw new Error(`${path} names ${file}, which lies outside of the folder.`);
      let response;
      try {
        response = await fetch(address);
      } catch {
        throw new Error(`${path}/${file} could not be loaded: the server does not answer; reload the page.`);
      }
      if (!response.ok) return null;
      const pieces = [];
      for (const reader = response.body.getReader(); ;) {
        const { done, value } = await reader.read();
        if (done) break;
        pieces.push(value);
        progress(value.length);
      }
      return new Uint8Array(await new Blob(pieces).arrayBuffer());
    },
  };
}

/**
 * A folder on the visitor's disk.
 * @param {File[]} files What an `<input webkitdirectory>` holds.
 * @returns {Folder}
 */
export function folderOf(files) {
  const place = (file) => file.webkitRelativePath.split("/");
  return {
    name: place(files[0])[0],
    async read(name) {
      const found = files.find((file) => place(file).slice(1).join("/") === name);
      return found ? new Uint8Array(await found.arrayBuffer()) : null;
    },
  };
}

/**
 * Read a JSON file.
 * @param {Folder} folder
 * @param {string} file
 * @returns {Promise<?object>} Null where there is none.
 */
export async function readJson(folder, file) {
  const bytes = await folder.read(file);
  if (!bytes) return null;
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new Error(`${folder.name}/${file} is not JSON; export the model again.`);
  }
}
