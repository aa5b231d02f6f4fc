"use strict";
(() => {
  const form = document.getElementById("filters");

  function filter() {
    const rows = [...document.querySelectorAll(".change")];
    if (!form || !rows.length) return;
    const want = Object.fromEntries(new FormData(form));
    const text = (want.text || "").toLowerCase().trim();
    const [side, label] = (want.label || "").split(" ");
    let shown = 0;
    for (const row of rows) {
      const { topic, moved, why, split } = row.dataset;
      const fits =
        (!want.topic || topic === want.topic) && (!want.moved || moved === want.moved) &&
        (!want.why || why === want.why) && (!want.split || split === want.split) &&
        (!label || row.dataset[side].split(" ").includes(label)) &&
        (!text || row.textContent.toLowerCase().includes(text));
      row.hidden = !fits;
      shown += fits;
    }
    document.getElementById("count").textContent = `${shown} of ${rows.length} shown`;
  }

  if (form) {
    form.addEventListener("input", filter);
    form.addEventListener("reset", () => setTimeout(filter));
    form.addEventListener("submit", (event) => event.preventDefault());
    filter();
  }

  // Sentences of an answer are one stop of the tab key; arrow keys move between them.
  document.addEventListener("keydown", (event) => {
    const answer = event.target.closest && event.target.closest(".answer");
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (!answer || !(event.key in steps)) return;
    const sentences = [...answer.querySelectorAll(".s")];
    if (!sentences.length) return;
    const at = sentences.indexOf(document.activeElement);
    const next = at < 0 && steps[event.key] < 0 ? sentences.length - 1 : at + steps[event.key];
    if (next >= 0 && next < sentences.length) sentences[next].focus();
    event.preventDefault();
  });

  // A page that is served asks whether its run went on, and takes over what is new; scroll and filters stay.
  const { stamp } = document.documentElement.dataset;
  if (stamp) {
    let last = stamp;
    const say = (text) => { document.querySelector(".progress").textContent = text; };
    setInterval(async () => {
      try {
        const answer = await fetch("/now", { cache: "no-store" });
        if (!answer.ok) { say(`The run's files can't be read now: ${await answer.text()}`); return; }
        const { stamp: now, progress } = await answer.json();
        say(progress);
        if (now === last) return;
        const page = await fetch("/", { cache: "no-store" });
        if (!page.ok) { say(`${progress} The page can't be made anew: ${await page.text()}`); return; }
        const fresh = new DOMParser().parseFromString(await page.text(), "text/html");
        last = now;
        for (const id of ["curves", "changes", "pairs", "provenance"]) {
          const [old, other] = [document.getElementById(id), fresh.getElementById(id)];
          if (old && other) old.replaceWith(other);
          else if (other || old) { location.reload(); return; }
        }
        document.querySelector(".verdicts").replaceWith(fresh.querySelector(".verdicts"));
        filter();
      } catch (error) {
        say("The server has ended: this page no longer follows the run.");
      }
    }, 3000);
  }
})();
