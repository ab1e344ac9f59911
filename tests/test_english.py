"Phrases that no native speaker would write, each with a better one"
import json, pytest, re
from pathlib import Path

root = Path(__file__).parent.parent

better = {
    'to the last bit': 'bit-identical',
    'to the bits that': 'with identical ...',
    'the bits of a run': "bit-identical to an uninterrupted run's",
    'package index at hand': 'internet access',
    'sizes that lead to': 'sizes, ending at ...',
    'up to three that end at': 'up to three, ending at ...',
    'two bests': '`SaveModelCallback` forgets its best',
    'split that stays': 'a fixed split',
    'of the pixels of as many': 'of the pixels of 10 epochs at 224 px',
    'ten letters somewhere': 'letters A to J drawn on photographs',
    'somewhere over a': 'drawn on a ...',
    'goes with the pixels': 'scales with the pixels',
    'have to find the way': 'only learn coarse features',
    'to get used to': 'needs epochs to adapt to ...',
    'where what matters': 'when the details that distinguish the classes are small',
    'memory comes with': 'memory runs out at ...',
    'any folder of images will do': 'any folder with one sub-folder per class works',
    'must still show what': 'must stay recognisable',
    'as ever': 'as usual',
    'has to be said': 'is needed',
    'bears? an?': 'has a ..., allows ...',
    'hangs? on (a|the) (fit|run|model|learner|plan)': 'depends on ...',
    'what hangs on': 'callbacks of ..., what depends on ...',
    'is looked at first': 'is checked first',
    '(stop|stopped) and (go|gone) on': 'pause and resume',
    'gone on with': 'resumed',
    'the run that goes on': 'the resumed run',
    'that nobody stopped': 'uninterrupted',
    'holds it up': 'is the bottleneck',
    'in vain': 'for nothing',
    'can only be told': 'can only be judged',
    'for as long[,.]': 'just as long',
    'every way through': 'every schedule',
    '(have|has) in mind': 'stores, keeps',
    'that do not say it': 'without their own',
    'for want of': 'without, out of (memory)',
    'was said of': 'the error at ...',
    'leave (it|them) away': 'omit it',
    'if that cannot go well': 'if the plan, data or model is invalid',
    'anew': 'again',
    'in the midst of': 'during',
    'an? epoch each|epochs? a (second|minute)': 'epochs per ...',
    '(images|pictures|files|items|photographs|batches) an? (second|minute|epoch)': 'images per second',
    'seconds an? epoch': 'seconds per epoch',
    'row an? epoch': 'one row per epoch',
    'a epoch': 'an epoch, per epoch',
    'if `[^`]+` (is|are) no [a-z`]+ ?from': 'unless `n` is ... from',
    '(is|are) no (number|int|list|strength|model of|checkpoint of)': 'is not a ...',
    'that was killed had': 'left by a killed run',
    'so as to': 'to ...',
    'tells? of': 'describes, shows',
    'at the entrance': 'first, before ...',
    '(the|that the) (run|plan|stage|model) wants': "needs, the run's ...",
    'take no part|takes no part': 'is left out',
    'the other way round': 'in the other order',
    'one below the other': 'concatenated',
    'without a sign of': 'silently',
    'is made of, none': 'an empty list if ...',
    'left as it is: pass': 'was not changed: pass ...',
    'gives? back what': 'restores, frees ...',
    'know each other': 'refer to each other',
    'people ask for next': 'you may want next',
    'telling details': 'the details that distinguish the classes',
    'is what costs': 'is the bottleneck',
    '(do|does) all the set-?up': 'set everything up for you',
    'once it is on the index': 'once it is on PyPI',
    'may be another one': 'can look like another',
    'that you would train without': 'your Learner as usual',
    'half as long again': '50% longer',
    'for the work of their pixels': 'at a cost proportional to their pixels',
    'is an error now': 'you find out now that ...',
    'mends?': 'a fix, to repair',
    'worst nowhere': 'never the worst',
    'a word to add': 'one argument away',
    'away with it': 'delete it',
    'not as expected': 'if their internals have changed',
    'for longer trainings?': 'pay off only beyond ... epochs',
    'trainings': 'runs',
    '(learner|datablock|function|net|model|loop|loader)s? of yours': 'your own ...',
    'trained on in one': 'that takes 1 ms to train on',
    'for the time alone': 'only affects speed',
    'knows? of (them|it)': 'depends on them',
    'reads? them goes on': 'runs that use them are not affected',
    'pass a share': 'pass a fraction',
    'seed of the training': 'random seed',
    'as it would have': 'as, like',
    'in the end[,.:]': 'at the end, finally',
}
searched = [*sorted((root/'nbs').rglob('*.ipynb')), *sorted((root/'fastai_progresize').rglob('*.py')),
            *(f for o in ('tests','benchmarks','tools') for f in sorted((root/o).glob('*.py'))),
            *(root/o for o in ('README.md','CHANGELOG.md','CONTRIBUTING.md','Makefile','settings.ini'))]
searched = [f for f in searched if f!=Path(__file__) and '.ipynb_checkpoints' not in f.parts]

def texts(f):
    "What was written: the sources of a notebook's cells, or all lines of another file"
    text = f.read_text(encoding='utf-8')
    return [''.join(c['source']) for c in json.loads(text)['cells']] if f.suffix=='.ipynb' else [text]

def found(text):
    "The bad phrases in `text`, which may continue on the next line, of a comment too"
    text = re.sub(r'\s*\n[ \t]*(# )?', ' ', text)
    for k,v in better.items():
        for m in re.finditer(rf'\b(?:{k})\b', text, re.IGNORECASE):
            yield f'"...{text[max(0, m.start()-30):m.end()+30]}...": better "{v}"'

def test_finds():
    "Whole words only, over the end of a line too"
    assert len(list(found('It works as ever.')))==1 and len(list(found('# drawn\n# anew')))==1
    assert len(list(found('it works as\n    # ever')))==1
    assert not list(found('has every letter, renewed, a manewer'))

@pytest.mark.parametrize('file', searched, ids=lambda o: str(o.relative_to(root)))
def test_english(file):
    "None of the phrases is in a page, a module, a test or a tool"
    bad = [o for text in texts(file) for o in found(text)]
    assert not bad, '\n'.join(bad)
